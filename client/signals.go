package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Signals are messages to all who subscribe, kept for a while for those who are away. A subject is
// visible ASCII with dots between its parts.
type Signals struct{ client *Client }

// Signals returns the signals.
func (c *Client) Signals() Signals { return Signals{c} }

// NewSignal is a signal to be published.
type NewSignal struct {
	Subject string
	Payload []byte // up to 512 KiB
	Sender  string // who does not want to hear it, as of SubscribeOptions; may be empty
}

// signalBody is the body of a publication.
type signalBody struct {
	Subject string `json:"subject"`
	Payload []byte `json:"payload_base64"`
	Sender  string `json:"sender"`
}

// Publish publishes a signal and returns its position. When it returns without an error, the signal
// is on the disks of a majority.
func (s Signals) Publish(ctx context.Context, signal NewSignal) (uint64, error) {
	var answer struct{ Position uint64 }
	body := signalBody{signal.Subject, append([]byte{}, signal.Payload...), signal.Sender}
	err := s.client.do(ctx, request{method: http.MethodPost, path: "/signals", body: body, answer: &answer, once: true})
	return answer.Position, err
}

// SubscribeOptions say what is to be heard.
type SubscribeOptions struct {
	// Subjects are up to 50; * stands for any one part between dots, > at the end for one or more.
	Subjects []string
	// After is the position to begin behind; nil is from now on, 0 from the oldest that is kept.
	After *uint64
	// SkipSender leaves out what this sender publishes.
	SkipSender string
	// Coalesce holds signals back for this long, at most 10 s, and of the same ones only the last
	// comes. Their order stays.
	Coalesce time.Duration
	// Ready is told where the subscription begins, whenever it does so anew; nil for nobody.
	Ready func(position uint64)
	// Gap is told that signals up to a position may be missing, since they are no longer kept;
	// nil for nobody.
	Gap func(position uint64)
	// Interrupted is told why the subscription was broken, before it begins anew; nil for nobody.
	Interrupted func(error)
}

// Signal is one that was heard.
type Signal struct {
	Subject  string
	Payload  []byte
	Sender   string
	Position uint64 // subscribe behind it to go on
	Time     time.Time
}

// event is what a node sends to a subscriber.
type event struct {
	Type          string
	Position      uint64
	Subject       string
	Sender        string
	Payload       *string
	PayloadBase64 []byte `json:"payload_base64"`
	Time          time.Time
	Reason        string
}

const (
	// maxLine is over the size of the largest event, in which each byte may take six.
	maxLine = 4 << 20
	// silence is how long a node may send nothing, not even a sign of life, which comes each 15 s.
	silence = 40 * time.Second
)

// errEnded says that a node has ended a subscription, for a reason.
type errEnded string

// Error implements error.
func (e errEnded) Error() string { return "the node ended the subscription: " + string(e) }

// Subscribe calls handler for each signal, in order, one call at a time, until ctx ends, which is
// no error, or the handler returns one, which Subscribe returns. It goes on behind the last signal
// that was handled when a node goes away, so each is handled once unless it is interrupted, and
// twice at most then.
func (s Signals) Subscribe(ctx context.Context, o SubscribeOptions, handler func(Signal) error) error {
	f := &follower{client: s.client, options: o, handler: handler, after: o.After}
	pause := retryMin
	for {
		at := s.client.current.Load()
		before := f.events
		err := f.follow(ctx, s.client.endpoints[int(at)%len(s.client.endpoints)])
		var handled *handlerError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &handled):
			return handled.err
		case errors.Is(err, ErrForbidden), errors.Is(err, ErrInvalid), errors.Is(err, ErrUnsupported):
			return fmt.Errorf("parley: subscribe: %w", err)
		}
		if o.Interrupted != nil {
			o.Interrupted(err)
		}
		s.client.current.CompareAndSwap(at, at+1)
		if f.events > before {
			pause = retryMin
		}
		_ = sleep(ctx, pause) // it ended, or it is time
		pause = min(2*pause, retryMax)
	}
}

// handlerError is an error of the handler.
type handlerError struct{ err error }

// Error implements error.
func (h *handlerError) Error() string { return h.err.Error() }

// follower is one subscription through all its connections.
type follower struct {
	client  *Client
	options SubscribeOptions
	handler func(Signal) error
	after   *uint64
	events  int // that came
}

// follow subscribes at one node until that ends.
func (f *follower) follow(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	query := url.Values{"subject": f.options.Subjects}
	if f.after != nil {
		query.Set("after", strconv.FormatUint(*f.after, 10))
	}
	if f.options.SkipSender != "" {
		query.Set("skip_sender", f.options.SkipSender)
	}
	if f.options.Coalesce > 0 {
		query.Set("coalesce_ms", strconv.FormatInt(milliseconds(f.options.Coalesce), 10))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/signals/subscribe?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+f.client.options.Token)
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	answer, err := f.client.options.HTTP.Do(request)
	if err != nil {
		return &unreachable{err}
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxLine)) // the status is what counts
		return readError(answer, text)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watchdog.Reset(silence)
		if data, found := strings.CutPrefix(lines.Text(), "data: "); found {
			watchdog.Stop() // a handler may take its time
			if err := f.take(data); err != nil {
				return err
			}
			watchdog.Reset(silence)
		}
	}
	if err := lines.Err(); err != nil {
		return &unreachable{err}
	}
	return &unreachable{io.ErrUnexpectedEOF}
}

// take handles one event.
func (f *follower) take(data string) error {
	var e event
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		return fmt.Errorf("read an event: %w", err)
	}
	f.events++
	switch e.Type {
	case "message":
		signal := Signal{e.Subject, e.PayloadBase64, e.Sender, e.Position, e.Time}
		if e.Payload != nil {
			signal.Payload = []byte(*e.Payload)
		}
		if err := f.handler(signal); err != nil {
			return &handlerError{err}
		}
	case "ready":
		if f.options.Ready != nil {
			f.options.Ready(e.Position)
		}
	case "gap":
		if f.options.Gap != nil {
			f.options.Gap(e.Position)
		}
	case "end":
		return errEnded(e.Reason)
	default:
		return nil // of a later version
	}
	f.after = &e.Position
	return nil
}
