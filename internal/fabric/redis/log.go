package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

var (
	openLogScript  = load("log_open")
	appendScript   = load("log_append")
	readLogScript  = load("log_read")
	lastScript     = load("log_last")
	deleteLogEntry = load("log_delete")
	logInfoScript  = load("log_info")
)

// log is one handle of a log.
type log struct {
	provider *Provider
	name     string
	base     string   // of all keys
	keys     []string // as lua/log.lua has them
	limits   []string // as lua/log_open.lua takes them
	news     string   // the channel on which each append is told
}

func openLog(ctx context.Context, p *Provider, config fabric.LogConfig) (*log, error) {
	base := p.key("log", config.Name)
	l := &log{
		provider: p, name: config.Name, base: base, news: p.channel("log", config.Name) + "w",
		keys: []string{base + "e", base + "l", base + "s"},
		limits: []string{
			microseconds(config.MaxAge), strconv.FormatInt(config.MaxBytes, 10), strconv.FormatInt(config.MaxPerSubject, 10),
		},
	}
	_, err := l.run(ctx, openLogScript, l.keys, l.limits...)
	return l, err
}

// run runs a script of the log.
func (l *log) run(ctx context.Context, s *script, keys []string, args ...string) (rueidis.RedisMessage, error) {
	return l.provider.run(ctx, s, keys, append([]string{l.base + "i:"}, args...))
}

func (l *log) failed(operation string, err error) error {
	return fmt.Errorf("%s log %q: %w", operation, l.name, translate(err))
}

func (l *log) check(ctx context.Context, operation, pattern string) error {
	err := l.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckPattern(pattern)
	}
	if err != nil {
		return l.failed(operation, err)
	}
	return nil
}

// subjectFlag is how scripts take whether a pattern is a subject.
func subjectFlag(pattern string) string {
	if fabric.CheckSubject(pattern) == nil {
		return "1"
	}
	return "0"
}

// Append implements fabric.Log.
func (l *log) Append(
	ctx context.Context, subject string, payload []byte, options ...fabric.AppendOption,
) (uint64, error) {
	err := l.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckSubject(subject)
	}
	if err == nil {
		err = fabric.CheckValue(payload)
	}
	var seq uint64
	if err == nil {
		seq, err = l.append(ctx, subject, payload, fabric.NewAppendOptions(options))
	}
	if err != nil {
		return 0, l.failed("append to", err)
	}
	return seq, nil
}

func (l *log) append(ctx context.Context, subject string, payload []byte, o fabric.AppendOptions) (uint64, error) {
	expect := func(seq *uint64) string {
		if seq == nil {
			return ""
		}
		return strconv.FormatUint(*seq, 10)
	}
	keys := append(slices.Clone(l.keys), operation(l.base))
	answer, err := l.provider.runDurable(ctx, appendScript, keys, append([]string{
		l.base + "i:", l.news, subject, string(payload), expect(o.LastSeq), expect(o.LastSeqOfSubject),
		milliseconds(memoryTime),
	}, l.limits...))
	if err != nil {
		return 0, err
	}
	if text, err := answer.ToString(); err == nil && text == "" {
		return 0, fabric.ErrConflict
	}
	return number(answer)
}

// Read implements fabric.Log.
func (l *log) Read(ctx context.Context, pattern string, from uint64, limit int) ([]fabric.Entry, error) {
	if err := l.check(ctx, "read", pattern); err != nil {
		return nil, err
	}
	page, size := []fabric.Entry{}, 0
	limit = min(limit, fabric.MaxLogPage)
	for more := true; more && len(page) < limit && size < pageBytes; {
		p, err := l.read(ctx, pattern, from, limit-len(page), "+", "read")
		if err != nil {
			return nil, l.failed("read", err)
		}
		from, more = p.next, p.more
		for _, e := range p.entries {
			size += len(e.Payload)
		}
		page = append(page, p.entries...)
	}
	return page, nil
}

// logPage is what one step through a log gave.
type logPage struct {
	epoch   uint64 // another one is another log, of which nothing is known
	next    uint64 // from where to go on
	more    bool   // there may be more
	entries []fabric.Entry
}

// read reads or removes some entries, from one on and up to another, "+" for all.
func (l *log) read(
	ctx context.Context, pattern string, from uint64, limit int, until, action string,
) (p logPage, err error) {
	answer, err := l.run(ctx, readLogScript, l.keys, pattern, strconv.FormatUint(max(1, from), 10),
		strconv.Itoa(limit), strconv.Itoa(pageBytes), subjectFlag(pattern), until, action)
	if err != nil {
		return p, err
	}
	parts, err := answer.AsStrSlice()
	if err != nil || len(parts) < 3 {
		return p, fmt.Errorf("%w: %d parts: %w", errAnswer, len(parts), err)
	}
	p.more = parts[2] == "1"
	for i, field := range []*uint64{&p.epoch, &p.next} {
		if *field, err = strconv.ParseUint(parts[i], 10, 64); err != nil {
			return p, fmt.Errorf("%w: %w", errAnswer, err)
		}
	}
	for parts = parts[3:]; len(parts) >= 4; parts = parts[4:] {
		e, err := readEntry(parts)
		if err != nil {
			return p, err
		}
		p.entries = append(p.entries, e)
	}
	return p, nil
}

// readEntry reads sequence number, subject, time and payload.
func readEntry(parts []string) (fabric.Entry, error) {
	seq, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return fabric.Entry{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	at, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return fabric.Entry{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return fabric.Entry{Seq: seq, Subject: parts[1], Payload: notNil(parts[3]), Time: time.UnixMicro(at)}, nil
}

// Last implements fabric.Log.
func (l *log) Last(ctx context.Context, pattern string) (fabric.Entry, error) {
	if err := l.check(ctx, "read last of", pattern); err != nil {
		return fabric.Entry{}, err
	}
	answer, err := l.run(ctx, lastScript, l.keys, pattern, subjectFlag(pattern))
	if rueidis.IsRedisNil(err) {
		err = fabric.ErrNotFound
	}
	var e fabric.Entry
	if err == nil {
		var parts []string
		if parts, err = answer.AsStrSlice(); err == nil && len(parts) == 4 {
			e, err = readEntry(parts)
		} else {
			err = fmt.Errorf("%w: %d parts: %w", errAnswer, len(parts), err)
		}
	}
	if err != nil {
		return fabric.Entry{}, l.failed("read last of", err)
	}
	return e, nil
}

// Purge implements fabric.Log. It removes in steps, up to the entry that was the newest before.
func (l *log) Purge(ctx context.Context, pattern string) error {
	if err := l.check(ctx, "purge", pattern); err != nil {
		return err
	}
	info, err := l.info(ctx)
	until := strconv.FormatUint(info.LastSeq, 10)
	for p := (logPage{more: info.LastSeq > 0}); err == nil && p.more; {
		p, err = l.read(ctx, pattern, p.next, pageEntries, until, "remove")
	}
	if err != nil {
		return l.failed("purge", err)
	}
	return nil
}

// Delete implements fabric.Log.
func (l *log) Delete(ctx context.Context, seq uint64) error {
	err := l.provider.life.Ready(ctx)
	var answer rueidis.RedisMessage
	if err == nil {
		keys := append(slices.Clone(l.keys), operation(l.base))
		answer, err = l.run(ctx, deleteLogEntry, keys, strconv.FormatUint(seq, 10), milliseconds(memoryTime))
	}
	if err == nil {
		if deleted, _ := answer.ToString(); deleted != "1" {
			err = fabric.ErrNotFound
		}
	}
	if err != nil {
		return l.failed("delete from", fmt.Errorf("entry %d: %w", seq, err))
	}
	return nil
}

// Info implements fabric.Log.
func (l *log) Info(ctx context.Context) (fabric.LogInfo, error) {
	err := l.provider.life.Ready(ctx)
	var info fabric.LogInfo
	if err == nil {
		info, err = l.info(ctx)
	}
	if err != nil {
		return fabric.LogInfo{}, l.failed("inspect", err)
	}
	return info, nil
}

func (l *log) info(ctx context.Context) (info fabric.LogInfo, err error) {
	answer, err := l.run(ctx, logInfoScript, l.keys)
	if err != nil {
		return info, err
	}
	parts, err := answer.AsStrSlice()
	if err != nil || len(parts) != 4 {
		return info, fmt.Errorf("%w: %d parts: %w", errAnswer, len(parts), err)
	}
	for i, field := range []*uint64{&info.FirstSeq, &info.LastSeq, &info.Entries, &info.Bytes} {
		if parts[i] == "" { // there is no first one
			continue
		}
		if *field, err = strconv.ParseUint(parts[i], 10, 64); err != nil {
			return info, fmt.Errorf("%w: %w", errAnswer, err)
		}
	}
	if parts[0] == "" {
		info.FirstSeq = info.LastSeq + 1
	}
	return info, nil
}
