package memory

import (
	"context"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Send implements fabric.PipeLog.
func (l *log) Send(last uint64, entry fabric.NewEntry, done func(error)) error {
	err := l.provider.life.Err()
	if err == nil {
		err = fabric.CheckSend(entry)
	}
	if err != nil {
		return l.failed("send to", err)
	}
	if err = l.store.send(last, entry); err != nil {
		err = l.failed("send to", err)
	}
	go done(err)
	return nil
}

// Led implements fabric.PipeLog: there is no leader.
func (l *log) Led(ctx context.Context) (bool, error) {
	if err := l.provider.life.Ready(ctx); err != nil {
		return false, l.failed("ask for the leader of", err)
	}
	return true, nil
}

// Lead implements fabric.PipeLog.
func (l *log) Lead(ctx context.Context) error {
	_, err := l.Led(ctx)
	return err
}

// send appends the entry if last is the newest.
func (s *logStore) send(last uint64, entry fabric.NewEntry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retain()
	if last != s.last {
		return fabric.ErrConflict
	}
	s.append(entry.Subject, entry.Payload)
	s.retain()
	s.wake()
	return nil
}

// append stores an entry. The caller holds s.mu, and calls wake behind it.
func (s *logStore) append(subject string, payload []byte) uint64 {
	s.last++
	e := cloneEntry(fabric.Entry{Seq: s.last, Subject: subject, Payload: payload, Time: time.Now()})
	s.entries = append(s.entries, e)
	s.subject[subject]++
	s.bytes += entrySize(e)
	return e.Seq
}

// wake tells those who follow of new entries. The caller holds s.mu.
func (s *logStore) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}
