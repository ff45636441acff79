package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// sendSweep is between two looks for sends that nobody answered.
	sendSweep = 250 * time.Millisecond
	// electedGrace is how long after a stream has got another leader what was sent before may still be
	// answered: what its old leader took along never is.
	electedGrace = 500 * time.Millisecond
	// subjectElected is where servers tell that a stream has another leader; the name of the stream is
	// behind it ("JetStream advisories" in NATS's documentation).
	subjectElected = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."
)

// sender sends to one log without waiting, each entry with the expectation of what is before it. One
// connection keeps the order, and the answers come to one inbox.
type sender struct {
	provider *Provider
	stream   string

	mu       sync.Mutex // guards the following fields, and the order of what is published
	inbox    string     // before the number of a send; empty until the first
	count    uint64
	waiting  map[uint64]sending
	sweeping bool
}

// sending is a send that waits for its answer.
type sending struct {
	done  func(error)
	until time.Time
}

// Send implements fabric.PipeLog.
func (l *log) Send(last uint64, entry fabric.NewEntry, done func(error)) error {
	err := l.provider.life.Err()
	if err == nil {
		err = fabric.CheckSend(entry)
	}
	if err == nil {
		err = l.sender.send(l.prefix, last, entry, func(err error) {
			if err != nil {
				err = l.failed("send to", err)
			}
			done(err)
		})
	}
	if err != nil {
		return l.failed("send to", err)
	}
	return nil
}

func (s *sender) send(prefix string, last uint64, entry fabric.NewEntry, done func(error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.listen(); err != nil {
		return err
	}
	s.count++
	msg := natsgo.NewMsg(prefix + entry.Subject)
	msg.Data = entry.Payload
	msg.Reply = s.inbox + strconv.FormatUint(s.count, 10)
	msg.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
	if err := s.provider.conn.PublishMsg(msg); err != nil {
		return err
	}
	s.waiting[s.count] = sending{done, time.Now().Add(fabric.SendTimeout)}
	if !s.sweeping {
		s.sweeping = true
		time.AfterFunc(sendSweep, s.sweep)
	}
	return nil
}

// listen subscribes to the answers. The caller holds s.mu.
func (s *sender) listen() error {
	if s.inbox != "" {
		return nil
	}
	inbox := s.provider.conn.NewInbox() + "."
	sub, err := s.provider.conn.Subscribe(inbox+"*", s.answered)
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil { // as many as were sent
		return err
	}
	if _, err := s.provider.conn.Subscribe(subjectElected+s.stream, s.elected); err != nil {
		return errors.Join(err, sub.Unsubscribe())
	}
	s.inbox, s.waiting = inbox, map[uint64]sending{}
	return nil
}

// elected has what was sent to an old leader fail soon.
func (s *sender) elected(*natsgo.Msg) {
	until := time.Now().Add(electedGrace)
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, one := range s.waiting {
		if one.until.After(until) {
			s.waiting[number] = sending{one.done, until}
		}
	}
}

// answered takes the server's answer to a send.
func (s *sender) answered(msg *natsgo.Msg) {
	number, err := strconv.ParseUint(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:], 10, 64)
	if err != nil {
		return // nobody sends such
	}
	s.mu.Lock()
	one, found := s.waiting[number]
	delete(s.waiting, number)
	s.mu.Unlock()
	if found {
		one.done(sendError(msg))
	}
}

// sendError returns what an answer says.
func sendError(msg *natsgo.Msg) error {
	if msg.Header.Get("Status") == "503" {
		return fmt.Errorf("%w: %w", fabric.ErrUnavailable, natsgo.ErrNoResponders)
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch {
	case ack.Error == nil:
		return nil
	case isConflict(ack.Error):
		return fabric.ErrConflict
	}
	return errors.Join(fabric.ErrUnavailable, ack.Error)
}

// sweep gives up what was not answered in time.
func (s *sender) sweep() {
	now := time.Now()
	var late []sending
	s.mu.Lock()
	for number, one := range s.waiting {
		if now.After(one.until) {
			late = append(late, one)
			delete(s.waiting, number)
		}
	}
	if s.sweeping = len(s.waiting) > 0; s.sweeping {
		time.AfterFunc(sendSweep, s.sweep)
	}
	s.mu.Unlock()
	err := fmt.Errorf("%w: no answer within %v, or since another leader was elected", fabric.ErrUnavailable, fabric.SendTimeout)
	if s.provider.life.Err() != nil {
		err = fabric.ErrClosed
	}
	for _, one := range late {
		one.done(err)
	}
}
