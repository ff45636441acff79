package fabric

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Sentinel errors of Signal.
var (
	// ErrNoResponder says that nobody subscribes to the subject of a request.
	ErrNoResponder = errors.New("no responder")
	// ErrInvalidSubject says that a subject is empty, over MaxSubjectSize, or has an empty
	// token, a space, a control or non-ASCII character, or a wildcard where none may be.
	ErrInvalidSubject = errors.New("invalid subject")
)

// Limits of Signal that hold for every driver.
const (
	// MaxSubjectSize is the size in bytes of the longest subject.
	MaxSubjectSize = 1024
	// MaxSignalBacklogMessages and MaxSignalBacklogBytes bound what waits to be sent by one
	// Signal; beyond one of them Publish returns ErrFull.
	MaxSignalBacklogMessages = 1 << 16
	MaxSignalBacklogBytes    = 16 << 20
	// MaxSignalPending is how many received messages wait for the handlers of one Signal;
	// what comes beyond it is lost, and told as a Gap.
	MaxSignalPending = 1 << 16
	// RequestTimeout bounds a Request whose context has no deadline.
	RequestTimeout = 5 * time.Second
)

// Gap says why messages may have been missed.
type Gap string

// Reasons of a Gap.
const (
	// GapReconnect says that the connection was lost and is back; the subscriptions are in
	// effect again.
	GapReconnect Gap = "reconnect"
	// GapSlow says that the handlers were slower than what came.
	GapSlow Gap = "slow_consumer"
	// GapForgotten says that messages behind the position asked for are no longer kept. Only a
	// Replay tells it.
	GapForgotten Gap = "forgotten"
)

// Message is what a subscription receives. Nobody may change the Payload: others may hold
// the same bytes.
type Message struct {
	Subject string
	Payload []byte
	// Sender is the ID of the Signal that sent it.
	Sender string
	// ReplyTo is not empty in a request; Respond answers it. Opaque.
	ReplyTo string
}

// Signal carries messages to whoever subscribes at that moment, on all nodes. Delivery is at
// most once: nothing is stored, and a receiver that is away or too slow misses what was sent.
// What must not be missed is published by a Replay, which keeps messages and hands them out from
// a position on. Nothing is merged either: who wants one message for many has to do so, senders as
// the directory does with its batches, receivers as the primitives do for coalesce_ms.
//
// Subjects are tokens of printable ASCII with dots between them; Token makes a token of any
// text. In the subject of a subscription the token * stands for any one token, and > at the
// end for one or more. Subjects are apart for each name that a Provider opens.
//
// Messages of one sender arrive in the order in which they were published, also on different
// subjects, at all subscriptions of one receiving Signal taken together. Between senders
// there is no order. A node without a fitting subscription receives nothing.
//
// Every Signal calls its handlers and gap functions from one goroutine of its own, one at a
// time, so a handler must not wait: it may Publish, Subscribe, Respond and Unsubscribe, but
// not Request.
//
// A loss between nodes that leaves the own connection in place cannot be seen by the
// receiver and is told by no Gap; a protocol that needs completeness numbers its messages.
type Signal interface {
	// ID names this Signal among all, on all nodes; it is a single token.
	ID() string
	// Publish hands payload over and returns without waiting. The payload is not copied: do
	// not change it afterwards. ErrFull when too much waits to be sent, ErrTooLarge over
	// MaxValueSize, ErrInvalidSubject. A nil error does not mean that anybody received it.
	Publish(ctx context.Context, subject string, payload []byte) error
	// Subscribe calls handler for each message on the subject, which may have wildcards. It
	// returns without waiting: messages published by this Signal from now on are received,
	// those of others a moment later; after Flush, those of all who share the node's bus.
	Subscribe(subject string, handler func(Message), options ...SubscribeOption) (Subscription, error)
	// Request publishes payload and returns the first answer. It waits until ctx ends, at
	// most RequestTimeout when ctx has no deadline. ErrNoResponder when nobody subscribes,
	// an error that wraps context.DeadlineExceeded when nobody answers.
	Request(ctx context.Context, subject string, payload []byte) ([]byte, error)
	// Respond answers a request, like Publish. A message that is no request gives
	// ErrInvalidSubject.
	Respond(request Message, payload []byte) error
	// Flush waits until what was published and subscribed here before has reached the bus:
	// the own engine, or the server that is connected to.
	Flush(ctx context.Context) error
}

// Subscription is one Subscribe call that is in effect.
type Subscription interface {
	// Unsubscribe ends it. The handler is not called after it returned, but a call that runs
	// at that moment is not waited for. Repeating it does nothing.
	Unsubscribe() error
}

// SubscribeOptions are what the options of a Subscribe call add up to; drivers read it.
type SubscribeOptions struct {
	SkipSelf bool
	Gap      func(Gap)
}

// SubscribeOption changes a Subscribe call.
type SubscribeOption func(*SubscribeOptions)

// SkipSelf leaves out messages that the same Signal sent.
func SkipSelf() SubscribeOption {
	return func(o *SubscribeOptions) { o.SkipSelf = true }
}

// OnGap has gap called whenever messages may have been missed: once for each loss of the
// connection, after it is back, and once for each row of messages dropped because the
// handlers were too slow.
func OnGap(gap func(Gap)) SubscribeOption {
	return func(o *SubscribeOptions) { o.Gap = gap }
}

// NewSubscribeOptions adds options up, for drivers.
func NewSubscribeOptions(options []SubscribeOption) SubscribeOptions {
	var o SubscribeOptions
	for _, option := range options {
		option(&o)
	}
	return o
}

// maxTokenSize is the size over which Token takes a hash instead of the text.
const maxTokenSize = 200

const upperHex = "0123456789ABCDEF"

// Token returns a subject token that stands for text: the text itself where that is letters,
// digits and - _ = @ , ; : / + ~ only, otherwise with the other bytes as %XX. The empty text
// becomes a single %. What would be over 200 bytes becomes %~ and a SHA-256, so that two
// texts never share a token for practical purposes, and not every token can be read back.
func Token(text string) string {
	if text == "" {
		return "%"
	}
	plain := true
	for i := range len(text) {
		if !tokenBytes[text[i]] {
			plain = false
			break
		}
	}
	if plain && len(text) <= maxTokenSize {
		return text
	}
	out := make([]byte, 0, len(text)+16)
	for i := range len(text) {
		if b := text[i]; tokenBytes[b] {
			out = append(out, b)
		} else {
			out = append(out, '%', upperHex[b>>4], upperHex[b&15])
		}
		if len(out) > maxTokenSize {
			sum := sha256.Sum256([]byte(text))
			return "%~" + hex.EncodeToString(sum[:])
		}
	}
	return string(out)
}

// tokenBytes are the bytes that Token leaves as they are.
var tokenBytes = func() (set [256]bool) {
	for _, b := range []byte("-_=@,;:/+~") {
		set[b] = true
	}
	for b := range set {
		set[b] = set[b] || isNameByte(byte(b))
	}
	return set
}()

// CheckSubject returns an error that wraps ErrInvalidSubject when nothing can be published
// on subject.
func CheckSubject(subject string) error { return checkSubject(subject, false) }

// CheckPattern returns an error that wraps ErrInvalidSubject when subject cannot be
// subscribed to. It may have wildcards.
func CheckPattern(subject string) error { return checkSubject(subject, true) }

func checkSubject(subject string, wildcards bool) error {
	if subject == "" || len(subject) > MaxSubjectSize {
		return badSubject(subject)
	}
	start := 0 // of the current token
	for i := 0; i <= len(subject); i++ {
		if i < len(subject) && subject[i] != '.' {
			if b := subject[i]; b <= ' ' || b > '~' {
				return badSubject(subject)
			}
			continue
		}
		token := subject[start:i]
		switch {
		case token == "":
			return badSubject(subject)
		case !wildcards && (token[0] == '*' || token[0] == '>') && len(token) == 1:
			return badSubject(subject)
		case token == ">" && i != len(subject):
			return badSubject(subject)
		}
		start = i + 1
	}
	return nil
}

func badSubject(subject string) error {
	return fmt.Errorf("subject %.300q: %w", subject, ErrInvalidSubject)
}

// Matches says whether a pattern that CheckPattern accepts covers a subject.
func Matches(pattern, subject string) bool {
	for {
		p, pRest, pMore := cutToken(pattern)
		if p == ">" && !pMore {
			return subject != ""
		}
		s, sRest, sMore := cutToken(subject)
		if p != "*" && p != s || pMore != sMore {
			return false
		}
		if !pMore {
			return true
		}
		pattern, subject = pRest, sRest
	}
}

func cutToken(subject string) (token, rest string, more bool) {
	for i := range len(subject) {
		if subject[i] == '.' {
			return subject[:i], subject[i+1:], true
		}
	}
	return subject, "", false
}
