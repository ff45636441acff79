package primitives

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// What is held for a client is held by the node that was asked for it, and its id begins with
// the name of that node's run. So every node knows whom to ask when the client comes to it.

const (
	// peersAtOnce is how many orders of other nodes a node carries out at a time.
	peersAtOnce = 1024
	// orderTimeout bounds an order, on both ends. A node that does not answer within it stands
	// still, or the store does.
	orderTimeout = fabric.RequestTimeout
	// unheardPause is before an order is given once more that nobody listens to. A node whose
	// connection to another was just made does not know yet what that listens to.
	unheardPause = 200 * time.Millisecond
)

// dropPeersBusy counts orders of other nodes that came while peersAtOnce were carried out.
const dropPeersBusy = "primitives_peers_busy"

// order is what one node asks of another for a client.
type order struct {
	Do      string  `json:"do"`
	ID      string  `json:"id,omitempty"`
	Owner   string  `json:"owner,omitempty"`
	Outcome outcome `json:"outcome,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Length  int64   `json:"length_ms,omitempty"`
}

// What an order can be.
const (
	doEnd    = "end"    // what is held for a client
	doExtend = "extend" // what is held for a client
	doPing   = "ping"   // tell whether a request is being done
)

// report is the answer to an order.
type report struct {
	Length int64  `json:"length_ms,omitempty"`
	Lost   bool   `json:"lost,omitempty"`
	Failed string `json:"failed,omitempty"` // why it is not known whether it was done
}

func (r report) err() error {
	switch {
	case r.Lost:
		return errLost
	case r.Failed != "":
		return fmt.Errorf("%s: %w", r.Failed, fabric.ErrUnavailable)
	}
	return nil
}

// newID returns an id for what this node is about to hold.
func (s *Server) newID() string { return s.instance() + "." + randomText() }

// instance names this run of this node.
func (s *Server) instance() string { return s.signal.ID() }

// instanceOf returns the run of a node that gave an id.
func instanceOf(id string) (string, error) {
	instance, _, found := strings.Cut(id, ".")
	if !found || fabric.CheckSubject(instance) != nil {
		return "", errLost
	}
	return instance, nil
}

// command has an order carried out by the node that gave its id.
func (s *Server) command(ctx context.Context, o order) (time.Duration, error) {
	instance, err := instanceOf(o.ID)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	answer := report{}
	if instance == s.instance() {
		answer = s.carryOut(ctx, o)
	} else if answer, err = s.ask(ctx, instance, o); err != nil {
		return 0, err
	}
	return time.Duration(answer.Length) * time.Millisecond, answer.err()
}

// ask sends an order to another node. errLost when that run of it has ended.
func (s *Server) ask(ctx context.Context, instance string, o order) (report, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return report{}, err
	}
	for again := false; ; again = true {
		text, err := s.signal.Request(ctx, instance, text)
		switch {
		case err == nil:
			var answer report
			if err := json.Unmarshal(text, &answer); err != nil {
				return report{}, fmt.Errorf("read the answer of another node: %w", err)
			}
			return answer, nil
		case !errors.Is(err, fabric.ErrNoResponder):
			return report{}, fmt.Errorf("the node that holds it does not answer: %w", err)
		case again:
			return report{}, errLost
		}
		if err := pause(ctx, unheardPause); err != nil {
			return report{}, err
		}
	}
}

// listen carries out what other nodes ask for.
func (s *Server) listen() error {
	slots := make(chan struct{}, peersAtOnce)
	var err error
	s.listening, err = s.signal.Subscribe(s.instance(), func(m fabric.Message) {
		select {
		case slots <- struct{}{}:
		default:
			s.options.Dropped(dropPeersBusy)
			s.respond(m, report{Failed: "the node that holds it has too much to do"})
			return
		}
		s.goes(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(s.life, orderTimeout)
			defer cancel()
			var o order
			if err := json.Unmarshal(m.Payload, &o); err != nil {
				s.respond(m, report{Failed: "the node that holds it does not understand"})
				return
			}
			s.respond(m, s.carryOut(ctx, o))
		})
	})
	if err != nil {
		return fmt.Errorf("listen to other nodes: %w", err)
	}
	return nil
}

func (s *Server) respond(m fabric.Message, answer report) {
	text, err := json.Marshal(answer)
	if err == nil {
		err = s.signal.Respond(m, text)
	}
	if err != nil {
		s.log.Warn("another node gets no answer", "error", err)
	}
}

// carryOut does what a client asks of what this node holds.
func (s *Server) carryOut(ctx context.Context, o order) report {
	var length time.Duration
	var err error
	switch o.Do {
	case doPing:
		if _, doing := s.doing.Load(o.ID); !doing {
			err = errLost
		}
	case doEnd:
		err = s.held.end(ctx, o.ID, o.Owner, o.Outcome, o.Reason)
	case doExtend:
		length, err = s.held.extend(o.ID, o.Owner, time.Duration(o.Length)*time.Millisecond)
	default:
		err = fmt.Errorf("order %.20q is unknown", o.Do)
	}
	answer := report{Length: length.Milliseconds()}
	switch {
	case errors.Is(err, errLost), errors.Is(err, fabric.ErrLost):
		answer.Lost = true
	case err != nil:
		answer.Failed = err.Error()
	}
	return answer
}
