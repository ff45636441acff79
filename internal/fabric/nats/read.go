package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// pageBytes is about how much one page of a read carries.
const pageBytes = 8 << 20

// stored reads from one stream that allows direct reads. A direct read is answered by any
// replica, many messages for one request, and may miss the newest; what the leader says is
// never behind.
type stored struct {
	provider *Provider
	stream   string
}

// getRequest asks for messages, by the API of JetStream (ADR-31).
type getRequest struct {
	Seq      uint64 `json:"seq,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
	MaxBytes int    `json:"max_bytes,omitempty"`
	// MultiLast asks a replica for the newest message of each subject.
	MultiLast []string `json:"multi_last,omitempty"`
}

func (s stored) api(operation string) string {
	prefix := s.provider.js.Options().APIPrefix
	if domain := s.provider.js.Options().Domain; domain != "" {
		prefix = "$JS." + domain + ".API."
	}
	if prefix == "" {
		prefix = jetstream.DefaultAPIPrefix
	}
	return prefix + operation + "." + s.stream
}

// leader returns one message as the leader of the stream has it.
func (s stored) leader(ctx context.Context, request getRequest) (fabric.Entry, error) {
	entry, _, err := s.leaderMessage(ctx, request)
	return entry, err
}

// leaderMessage is leader with the message's headers.
func (s stored) leaderMessage(
	ctx context.Context, request getRequest,
) (entry fabric.Entry, header natsgo.Header, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return entry, nil, err
	}
	m, err := ask(ctx, func(ctx context.Context) (storedMessage, error) { return s.askLeader(ctx, body) })
	if err != nil {
		return entry, nil, err
	}
	if len(m.Header) > 0 {
		if header, err = natsgo.DecodeHeadersMsg(m.Header); err != nil {
			return entry, nil, fmt.Errorf("decode headers: %w", err)
		}
	}
	return fabric.Entry{Seq: m.Seq, Subject: m.Subject, Payload: notNil(m.Data), Time: m.Time}, header, nil
}

// storedMessage is a message in an answer of the leader.
type storedMessage struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Header  []byte    `json:"hdrs"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// askLeader asks once.
func (s stored) askLeader(ctx context.Context, request []byte) (storedMessage, error) {
	answer, err := s.provider.conn.RequestWithContext(ctx, s.api("STREAM.MSG.GET"), request)
	if err != nil {
		return storedMessage{}, err
	}
	var response struct {
		Error   *jetstream.APIError `json:"error"`
		Message storedMessage       `json:"message"`
	}
	switch err := json.Unmarshal(answer.Data, &response); {
	case err != nil:
		return storedMessage{}, fmt.Errorf("decode message: %w", err)
	case response.Error == nil:
		return response.Message, nil
	case response.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return storedMessage{}, jetstream.ErrMsgNotFound
	}
	return storedMessage{}, response.Error
}

// page returns up to limit messages under the pattern from a sequence number on. It takes
// them from the nearest replica, and from the leader what that did not have.
func (s stored) page(ctx context.Context, pattern string, from uint64, limit int) ([]fabric.Entry, error) {
	page := []fabric.Entry{}
	if limit <= 0 {
		return page, nil
	}
	from = max(1, from)
	page, pending, err := s.replica(ctx, getRequest{Seq: from, NextFor: pattern, Batch: limit, MaxBytes: pageBytes})
	if err != nil || pending != "" && pending != "0" {
		return page, err
	}
	for len(page) < limit {
		if len(page) > 0 {
			from = page[len(page)-1].Seq + 1
		}
		e, err := s.leader(ctx, getRequest{Seq: from, NextFor: pattern})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		page = append(page, e)
	}
	return page, nil
}

// replica returns what the nearest replica has, and how many messages more that has of it. What
// got lost on the way ends the result, and pending is "".
func (s stored) replica(
	ctx context.Context, request getRequest,
) (page []fabric.Entry, pending string, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err = tries(ctx, func(trying context.Context, _ bool) (err error) {
		page, pending, err = s.tryReplica(ctx, trying, request)
		return err
	})
	return page, pending, err
}

// tryReplica asks once. The answer has to begin before trying ends, and may take longer.
func (s stored) tryReplica(
	ctx, trying context.Context, request getRequest,
) ([]fabric.Entry, string, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, "", err
	}
	conn := s.provider.conn
	inbox := conn.NewInbox()
	answers, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = answers.Unsubscribe() }() // fails when the connection is closed
	if err := answers.SetPendingLimits(request.Batch+1, -1); err != nil {
		return nil, "", err
	}
	if err := conn.PublishRequest(s.api("DIRECT.GET"), inbox, body); err != nil {
		return nil, "", err
	}
	page := []fabric.Entry{}
	last := uint64(0)
	for waiting := trying; ; waiting = ctx {
		msg, err := answers.NextMsgWithContext(waiting)
		if err != nil {
			return nil, "", err
		}
		switch msg.Header.Get("Status") {
		case "204": // the end of the page
			if msg.Header.Get(jetstream.LastSequenceHeader) != strconv.FormatUint(last, 10) {
				return page, "", nil
			}
			return page, msg.Header.Get("Nats-Num-Pending"), nil
		case "404":
			if request.MultiLast != nil && msg.Header.Get("Description") != "No Results" {
				return page, "", nil // it could not load one
			}
			return page, "0", nil
		case "":
		default:
			return nil, "", fmt.Errorf("read from a replica: %w", statusError(msg))
		}
		if msg.Header.Get(jetstream.LastSequenceHeader) != strconv.FormatUint(last, 10) {
			return page, "", nil // one is missing
		}
		e, err := direct(msg)
		if err != nil {
			return nil, "", err
		}
		last = e.Seq
		page = append(page, e)
	}
}

// direct reads a message from the answer of a direct read.
func direct(msg *natsgo.Msg) (fabric.Entry, error) {
	seq, err := strconv.ParseUint(msg.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return fabric.Entry{}, fmt.Errorf("decode sequence number: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, msg.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return fabric.Entry{}, fmt.Errorf("decode time: %w", err)
	}
	return fabric.Entry{
		Seq: seq, Subject: msg.Header.Get(jetstream.SubjectHeader), Payload: notNil(msg.Data), Time: at,
	}, nil
}

func statusError(msg *natsgo.Msg) error {
	if msg.Header.Get("Status") == "503" {
		return natsgo.ErrNoResponders
	}
	return fmt.Errorf("status %s %s", msg.Header.Get("Status"), msg.Header.Get("Description"))
}

// lastOf returns the newest message under a subject as the leader of the stream has it, or
// jetstream.ErrMsgNotFound.
func lastOf(ctx context.Context, stream jetstream.Stream, subject string) (*jetstream.RawStreamMsg, error) {
	return ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return stream.GetLastMsgForSubject(ctx, subject)
	})
}

// nextOf returns the first message under a pattern from a sequence number on, or
// jetstream.ErrMsgNotFound.
func nextOf(
	ctx context.Context, stream jetstream.Stream, pattern string, from uint64,
) (*jetstream.RawStreamMsg, error) {
	return ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(pattern))
	})
}

// infoOf returns what the leader of the stream knows of it.
func infoOf(ctx context.Context, stream jetstream.Stream) (*jetstream.StreamInfo, error) {
	return ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) { return stream.Info(ctx) })
}

// remove deletes one message with the method given. One that an earlier try has deleted
// unheard is deleted.
func remove(
	ctx context.Context, stream jetstream.Stream, seq uint64, method func(context.Context, uint64) error,
) error {
	return tries(ctx, func(ctx context.Context, again bool) error {
		err := method(ctx, seq)
		if again && errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
			if _, getErr := stream.GetMsg(ctx, seq); errors.Is(getErr, jetstream.ErrMsgNotFound) {
				return nil
			}
		}
		return err
	})
}

// purge removes the messages under a pattern.
func purge(ctx context.Context, stream jetstream.Stream, pattern string) error {
	return tries(ctx, func(ctx context.Context, _ bool) error {
		return stream.Purge(ctx, jetstream.WithPurgeSubject(pattern))
	})
}
