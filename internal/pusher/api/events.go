package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// event is the body of POST /events and one element of a batch.
type event struct {
	Name     string          `json:"name"`
	Data     json.RawMessage `json:"data"`
	Channels []string        `json:"channels"`
	Channel  string          `json:"channel"`
	SocketID string          `json:"socket_id"`
	Info     string          `json:"info"`
}

// published is the answer to an event that asked for info.
type published struct {
	Channels map[string]channelAttributes `json:"channels"`
}

func (s *Server) postEvents(r *request) (any, error) {
	var e event
	if err := decode(r.body, &e); err != nil {
		return nil, err
	}
	channels := e.Channels
	if e.Channel != "" {
		channels = append(channels, e.Channel)
	}
	channels = unique(channels)
	data, err := r.checkEvent(e, channels)
	if err != nil {
		return nil, err
	}
	info := parseInfo(e.Info)
	events := make([]pusher.Event, len(channels))
	for i, channel := range channels {
		events[i] = pusher.Event{Name: e.Name, Data: data, Channel: channel, SocketID: e.SocketID}
	}
	if err := s.publish(r, events); err != nil {
		return nil, err
	}
	if info&^infoCache == 0 {
		return struct{}{}, nil
	}
	answer := published{Channels: make(map[string]channelAttributes, len(channels))}
	for _, channel := range channels {
		answer.Channels[channel] = s.attributes(r, channel, info.ofPublish(channel))
	}
	return answer, nil
}

// unique returns the names without repetitions, in their order: an event reaches a channel
// once.
func unique(names []string) []string {
	kept := names[:0:0]
	for _, name := range names {
		if !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
		if len(kept) > maxUnique {
			return names // refused for their number anyway, so do not compare them all
		}
	}
	return kept
}

// maxUnique bounds the comparisons of unique; max_event_channels is normally far below.
const maxUnique = 1000

func (s *Server) postBatch(r *request) (any, error) {
	var body struct {
		Batch []event `json:"batch"`
	}
	if err := decode(r.body, &body); err != nil {
		return nil, err
	}
	if body.Batch == nil {
		return nil, fail(invalidEvent, "batch is missing")
	}
	if len(body.Batch) > r.limits.MaxEventBatch {
		return nil, fail(tooManyEvents, "The batch has %d events, the limit is %d", len(body.Batch), r.limits.MaxEventBatch)
	}
	events := make([]pusher.Event, len(body.Batch))
	infos := make([]info, len(body.Batch))
	asked := false
	for i, e := range body.Batch {
		data, err := r.checkEvent(e, []string{e.Channel})
		if err != nil {
			return nil, err
		}
		infos[i] = parseInfo(e.Info).ofPublish(e.Channel)
		asked = asked || infos[i] != 0
		events[i] = pusher.Event{Name: e.Name, Data: data, Channel: e.Channel, SocketID: e.SocketID}
	}
	if err := s.publish(r, events); err != nil {
		return nil, err
	}
	if !asked {
		return struct{}{}, nil
	}
	answer := struct {
		Batch []channelAttributes `json:"batch"`
	}{make([]channelAttributes, len(events))}
	for i, e := range events {
		answer.Batch[i] = s.attributes(r, e.Channel, infos[i])
	}
	return answer, nil
}

// publish delivers events within the app's quota, as fast as subscribers take them.
func (s *Server) publish(r *request, events []pusher.Event) error {
	limit, result := s.hub.AllowEvents(r.app, len(events))
	if err := tellLimit(r.answer, limit, result); err != nil {
		s.options.Metrics.quotaExceeded("backend_events")
		return fail(rateLimited, "The app may publish %d events a second", limit)
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.options.BacklogTimeout)
	defer cancel()
	done, err := s.transport.Admit(ctx)
	if err != nil {
		return fail(overloaded, "Subscribers cannot keep up, try again later")
	}
	defer done()
	for _, e := range events {
		s.hub.Publish(r.app, e)
	}
	return nil
}

// checkEvent applies the limits and returns the event's data as the string that clients
// get.
func (r *request) checkEvent(e event, channels []string) (data string, err error) {
	switch {
	case e.Name == "":
		return "", fail(invalidEvent, "name is missing")
	case utf8.RuneCountInString(e.Name) > r.limits.MaxEventNameLength:
		return "", fail(invalidEvent, "The event name is longer than %d characters", r.limits.MaxEventNameLength)
	case strings.HasPrefix(e.Name, "pusher:"), strings.HasPrefix(e.Name, "pusher_internal:"):
		return "", fail(invalidEvent, "Event names that begin with pusher: or pusher_internal: are reserved")
	case len(channels) == 0:
		return "", fail(invalidEvent, "channels is missing")
	case len(channels) > r.limits.MaxEventChannels:
		return "", fail(tooManyChannels, "The event has %d channels, the limit is %d", len(channels), r.limits.MaxEventChannels)
	case e.SocketID != "" && !protocol.ValidSocketID(e.SocketID):
		return "", fail(invalidSocket, "socket_id is not valid")
	}
	for _, channel := range channels {
		if !protocol.ValidChannel(channel, r.maxChannelName(channel)) {
			return "", fail(invalidChannel, "Invalid channel name: %.80q", channel)
		}
		if len(channels) > 1 && protocol.KindOf(channel).Has(protocol.Encrypted) {
			return "", fail(tooManyChannels, "An event for an encrypted channel can have only that one channel")
		}
	}
	if data, err = dataText(e.Data); err != nil {
		return "", err
	}
	if int64(len(data)) > r.limits.MaxEventPayload {
		return "", fail(largeData, "The data is over %d bytes", r.limits.MaxEventPayload)
	}
	return data, nil
}

// maxChannelName is the limit for a name; server libraries do not check a user's channel.
func (r *request) maxChannelName(channel string) int {
	if strings.HasPrefix(channel, protocol.UserChannelPrefix) {
		return len(protocol.UserChannelPrefix) + r.limits.MaxChannelNameLength
	}
	return r.limits.MaxChannelNameLength
}

// dataText returns data as a string: its value, or the JSON of anything else, since some
// libraries send an object.
func dataText(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", fail(invalidEvent, "data is missing")
	}
	if raw[0] != '"' {
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return "", fail(invalidJSON, "data is not valid JSON")
		}
		return compact.String(), nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return "", fail(invalidJSON, "data is not valid JSON")
	}
	return text, nil
}

// decode reads a JSON body strictly enough to tell its writer what is wrong.
func decode(body []byte, v any) error {
	if !utf8.Valid(body) {
		return fail(invalidUTF8, "The body is not valid UTF-8")
	}
	if err := protocol.CheckDepth(body); err != nil {
		return fail(invalidJSON, "The body is not valid: %v", err)
	}
	err := json.Unmarshal(body, v)
	var typeError *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typeError) && typeError.Field == "":
		return fail(invalidJSON, "The body must be a JSON object, not %s", typeError.Value)
	case errors.As(err, &typeError):
		return fail(invalidJSON, "%s has the wrong type: %s instead of %s",
			typeError.Field, typeError.Value, jsonType(typeError.Type))
	case err != nil:
		return fail(invalidJSON, "The body is not valid JSON")
	}
	return nil
}

// jsonType is what JSON calls the values of a type.
func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Slice:
		return "array"
	}
	return "object"
}

// encode writes an answer without escaping characters that only matter inside HTML.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
