package primitives

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Scopes of signals.
const (
	areaSignals     = "signals"
	actionSubscribe = "subscribe"
)

// Limits of subscriptions.
const (
	maxSubjects  = 50
	maxSender    = 100 // bytes
	maxCoalesce  = 10 * time.Second
	maxHeldBack  = 1000    // signals that wait for their window
	maxHeldBytes = 1 << 20 // of their payloads
)

// maxSignal is how large a signal may be: with its sender, and two bytes to tell that, it is one
// value.
const maxSignal = fabric.MaxValueSize - 2 - maxSender

func (s *Server) signalPaths() map[string]methods {
	return map[string]methods{
		"signals": {
			http.MethodGet:  {serve: s.getPositions},
			http.MethodPost: {serve: s.postSignal},
		},
		"signals/subscribe": {http.MethodGet: {waits: true, stream: s.subscribe}},
	}
}

// signalRequest is the body of POST signals.
type signalRequest struct {
	Subject string `json:"subject"`
	payloadForms
	Sender string `json:"sender"`
}

// positionAnswer is the answer to it.
type positionAnswer struct {
	Position uint64 `json:"position"`
}

// postSignal answers POST signals.
func (s *Server) postSignal(r *request) (answer, error) {
	body, err := decode[signalRequest](r)
	if err != nil {
		return answer{}, err
	}
	if err := checkSubject(body.Subject, false); err != nil {
		return answer{}, err
	}
	if err := r.allow(areaSignals, actionPublish, body.Subject); err != nil {
		return answer{}, err
	}
	payload, err := body.bytes()
	switch {
	case err != nil:
		return answer{}, err
	case len(payload) > maxSignal:
		return answer{}, fail(problemTooLarge, "a signal may have %d bytes", maxSignal)
	case len(body.Sender) > maxSender:
		return answer{}, invalid("sender may have %d bytes", maxSender)
	}
	t, err := s.signals.get(r.Context())
	if err != nil {
		return answer{}, err
	}
	sender, err := fabric.NewReplay(t.log, orAnonymous(body.Sender))
	if err != nil {
		return answer{}, err
	}
	position, err := sender.Publish(r.Context(), subjectOf(r.key, body.Subject), payload)
	return answer{status: http.StatusCreated, body: positionAnswer{position}}, err
}

// anonymous stands in the log for a sender that gave no name. No other is equal to it, as a name
// of a client has a letter in front there.
const anonymous = "-"

func orAnonymous(sender string) string {
	if sender == "" {
		return anonymous
	}
	return "s" + sender
}

// senderName is the reverse of orAnonymous.
func senderName(kept string) string {
	name, _ := strings.CutPrefix(kept, "s")
	if kept == anonymous {
		return ""
	}
	return name
}

// subjectOf is where a subject of a namespace is in the log.
func subjectOf(key *Key, subject string) string { return key.Namespace + "." + subject }

func checkSubject(subject string, pattern bool) error {
	check := fabric.CheckSubject
	if pattern {
		check = fabric.CheckPattern
	}
	if len(subject) > maxSubject || check(subject) != nil {
		return invalid("a subject must be visible ASCII with dots between its parts, up to %d bytes, "+
			"and only that of a subscription may have * for a part and > at its end", maxSubject)
	}
	return nil
}

// positionsAnswer is the answer to GET signals.
type positionsAnswer struct {
	First uint64 `json:"first_position"` // of the oldest that is kept
	Last  uint64 `json:"last_position"`  // of the newest that ever was
}

// getPositions answers GET signals with the extent of the log, in which those of all namespaces
// are.
func (s *Server) getPositions(r *request) (answer, error) {
	t, err := s.signals.get(r.Context())
	if err != nil {
		return answer{}, err
	}
	info, err := t.log.Info(r.Context())
	return answer{status: http.StatusOK, body: positionsAnswer{info.FirstSeq, info.LastSeq}}, err
}

// subscription is what a subscriber asked for.
type subscription struct {
	key        *Key
	patterns   []string // in the log
	pattern    string   // in the log, that covers them all
	after      uint64
	fromNow    bool // after is not set
	skipSender string
	coalesce   time.Duration
}

// readSubscription reads the parameters of GET signals/subscribe. Last-Event-ID, which a client of
// server-sent events gives when it comes back, goes before after.
func (s *Server) readSubscription(r *request) (sub subscription, err error) {
	query := r.URL.Query()
	sub = subscription{key: r.key, skipSender: query.Get("skip_sender")}
	subjects := query["subject"]
	if n := len(subjects); n < 1 || n > maxSubjects {
		return sub, invalid("subject must come from 1 to %d times", maxSubjects)
	}
	for _, subject := range subjects {
		if err := checkSubject(subject, true); err != nil {
			return sub, err
		}
		if err := r.allow(areaSignals, actionSubscribe, subject); err != nil {
			return sub, err
		}
		sub.patterns = append(sub.patterns, subjectOf(r.key, subject))
	}
	if sub.pattern = sub.patterns[0]; len(sub.patterns) > 1 {
		sub.pattern = subjectOf(r.key, ">")
	}
	if len(sub.skipSender) > maxSender {
		return sub, invalid("skip_sender may have %d bytes", maxSender)
	}
	position := r.Header.Get("Last-Event-ID")
	if position == "" {
		position = query.Get("after")
	}
	if sub.fromNow = position == ""; !sub.fromNow {
		if sub.after, err = strconv.ParseUint(position, 10, 63); err != nil {
			return sub, invalid("after must be a position")
		}
	}
	window, err := r.number("coalesce_ms", 0, 0, maxCoalesce.Milliseconds())
	sub.coalesce = milliseconds(window)
	return sub, err
}

// fits tells whether a subject in the log is asked for.
func (sub subscription) fits(subject string) bool {
	for _, pattern := range sub.patterns {
		if fabric.Matches(pattern, subject) {
			return true
		}
	}
	return false
}

// wants tells whether a signal is asked for.
func (sub subscription) wants(m fabric.Kept) bool {
	return sub.fits(m.Subject) && (sub.skipSender == "" || m.Sender != orAnonymous(sub.skipSender))
}

// event is what a subscriber is sent. Which fields are set depends on its type.
type event struct {
	Type     string `json:"type"`
	Position uint64 `json:"position"` // to go on behind
	Subject  string `json:"subject,omitempty"`
	Sender   string `json:"sender,omitempty"`
	payloadForms
	Time   *time.Time `json:"time,omitempty"`
	Reason string     `json:"reason,omitempty"`
}

// Types of events.
const (
	eventReady   = "ready"   // the subscription is in effect behind the position
	eventMessage = "message" // a signal
	eventGap     = "gap"     // signals before the position may be missing, for the reason
	eventEnd     = "end"     // the node ends the subscription, for the reason
)

// Reasons for which a node ends a subscription.
const (
	endLeaving = "node_stops"  // another node serves on
	endRevoked = "key_revoked" // the key lets nobody in any more
	endStore   = "unavailable" // the store does not answer
)

func messageEvent(m fabric.Kept, namespace string) event {
	at := m.Time.UTC()
	return event{
		Type: eventMessage, Position: m.Position, Subject: strings.TrimPrefix(m.Subject, namespace+"."),
		Sender: senderName(m.Sender), payloadForms: payloadOf(m.Payload), Time: &at,
	}
}
