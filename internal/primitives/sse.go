package primitives

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// subscribe answers GET signals/subscribe: with server-sent events, or over a WebSocket if the
// client asks for one.
func (s *Server) subscribe(w http.ResponseWriter, r *request) error {
	sub, err := s.readSubscription(r)
	if err != nil {
		return err
	}
	t, err := s.signals.get(r.Context())
	if err != nil {
		return err
	}
	serve := s.serveEvents
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		serve = s.serveSocket
	}
	done := make(chan error, 1)
	if !s.goes(func() { done <- serve(w, r, sub, t) }) {
		return fail(problemUnavailable, "the node stops")
	}
	return <-done
}

// serveEvents sends server-sent events.
func (s *Server) serveEvents(w http.ResponseWriter, r *request, sub subscription, t *tail) error {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx would hold them back
	w.WriteHeader(http.StatusOK)
	s.options.Metrics.answered("GET signals/subscribe", http.StatusOK)
	s.follow(r.Context(), sub, t, &eventStream{w: w, control: http.NewResponseController(w)})
	return nil
}

// eventStream is the sink of server-sent events.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send implements sink.
func (e *eventStream) send(events []event) error {
	var text bytes.Buffer
	for _, event := range events {
		body, err := encodeEvent(event)
		if err != nil {
			return err
		}
		text.WriteString("event: " + event.Type + "\nid: " + strconv.FormatUint(event.Position, 10) + "\ndata: ")
		text.Write(body)
		text.WriteString("\n\n")
	}
	return e.write(text.Bytes())
}

// alive implements sink, by a comment.
func (e *eventStream) alive() error { return e.write([]byte(":\n\n")) }

func (e *eventStream) write(text []byte) error {
	if err := e.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.control.Flush()
}

// encodeEvent returns an event as one line.
func encodeEvent(e event) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(e)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}
