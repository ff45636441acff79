package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// quote returns s as JSON.
func quote(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// channelList returns a JSON list of n channel names.
func channelList(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(`"c%d"`, i)
	}
	return "[" + strings.Join(names, ",") + "]"
}

func TestEventIsDelivered(t *testing.T) {
	f := newFixture(t, nil)
	a, b := f.connect(), f.connect()
	for _, s := range []*socket{a, b} {
		s.subscribe(f, "one", "")
		s.subscribe(f, "two", "")
	}
	// The data is forwarded byte for byte, whatever it says.
	const data = "{\"html\": \"<b>&amp;</b>\",\n \"n\": 1e400, \"u\": \"\u2028\U0001f600\"}"
	f.post("/events", `{"name":"e","channels":["one"],"channel":"two","data":`+quote(data)+`}`).want(t, 200, "{}")
	for _, s := range []*socket{a, b} {
		for _, channel := range []string{"one", "two"} {
			if m := s.next("e"); m.Channel != channel || m.text(t) != data {
				t.Errorf("got %+v", m)
			}
		}
	}
	// An object arrives as the text of it.
	f.post("/events", `{"name":"e","channel":"one","data":{"a": [1, 2.50],"b":"<"}}`).want(t, 200, "{}")
	if got := a.next("e").text(t); got != `{"a":[1,2.50],"b":"<"}` {
		t.Errorf("got %s", got)
	}
	b.next("e")
	// The excluded connection gets nothing: the next it sees is what follows.
	f.post("/events", `{"name":"e","channel":"one","data":"x","socket_id":`+quote(a.id)+`}`).want(t, 200, "{}")
	f.post("/events", `{"name":"last","channel":"one","data":"x"}`).want(t, 200, "{}")
	a.next("last")
	b.next("e")
	b.next("last")
}

func TestEventRefused(t *testing.T) {
	f := newFixture(t, nil)
	event := func(fields string) string { return `{"name":"e","channels":["c"],"data":"d",` + fields + `}` }
	for name, test := range map[string]struct {
		body   string
		status int
		tell   string
	}{
		"no JSON":                  {`{"name":`, 400, "not valid JSON"},
		"trailing text":            {event(`"x":1`) + "x", 400, "not valid JSON"},
		"empty":                    {" ", 400, "not valid JSON"},
		"not UTF-8":                {"{\"name\":\"\xff\"}", 400, "UTF-8"},
		"too deep":                 {event(`"data":` + strings.Repeat("[", 65) + strings.Repeat("]", 65)), 400, "nested"},
		"much too deep":            {strings.Repeat(`{"a":`, 100_000), 400, "nested"},
		"a list":                   {`[1]`, 400, "must be a JSON object, not array"},
		"a string":                 {`"x"`, 400, "must be a JSON object, not string"},
		"null":                     {`null`, 400, "name is missing"},
		"name of a number":         {event(`"name":5`), 400, "name has the wrong type: number instead of string"},
		"channels of a string":     {event(`"channels":"c"`), 400, "channels has the wrong type: string instead of array"},
		"channels of numbers":      {event(`"channels":[1]`), 400, "channels has the wrong type: number instead of string"},
		"socket_id of a number":    {event(`"socket_id":1.5`), 400, "socket_id has the wrong type"},
		"no name":                  {`{"channels":["c"],"data":"d"}`, 400, "name is missing"},
		"no data":                  {`{"name":"e","channels":["c"]}`, 400, "data is missing"},
		"data of null":             {event(`"data":null`), 400, "data is missing"},
		"no channels":              {`{"name":"e","data":"d"}`, 400, "channels is missing"},
		"empty channels":           {`{"name":"e","data":"d","channels":[]}`, 400, "channels is missing"},
		"a channel of null":        {event(`"channels":["c",null]`), 400, "channel name"},
		"101 channels":             {event(`"channels":` + channelList(101)), 400, "101 channels, the limit is 100"},
		"100 channels and one":     {event(`"channels":` + channelList(100) + `,"channel":"x"`), 400, "101 channels"},
		"name of 201":              {event(`"name":` + quote(strings.Repeat("n", 201))), 400, "longer than 200"},
		"channel of 201":           {event(`"channel":` + quote(strings.Repeat("c", 201))), 400, "Invalid channel name"},
		"channel with a space":     {event(`"channel":"a b"`), 400, `Invalid channel name: "a b"`},
		"channel with a slash":     {event(`"channel":"a/b"`), 400, "Invalid channel name"},
		"channel with a hash":      {event(`"channel":"#other"`), 400, "Invalid channel name"},
		"channel that is no ASCII": {event(`"channel":"ä"`), 400, "Invalid channel name"},
		"user channel of nobody":   {event(`"channel":"#server-to-user-"`), 400, "Invalid channel name"},
		"a second encrypted":       {event(`"channel":"private-encrypted-x"`), 400, "encrypted"},
		"encrypted cache":          {event(`"channel":"private-encrypted-cache-x"`), 400, "encrypted"},
		"socket_id of a name":      {event(`"socket_id":"abc"`), 400, "socket_id"},
		"half a socket_id":         {event(`"socket_id":"1."`), 400, "socket_id"},
		"socket_id with more":      {event(`"socket_id":"1.2.3"`), 400, "socket_id"},
		"socket_id and a line":     {event(`"socket_id":"1.2\n"`), 400, "socket_id"},
		"pusher: event":            {event(`"name":"pusher:ping"`), 400, "reserved"},
		"pusher_internal: event":   {event(`"name":"pusher_internal:member_added"`), 400, "reserved"},
		"data of 10 KiB and one":   {event(`"data":` + quote(strings.Repeat("d", 10<<10+1))), 413, "over 10240 bytes"},
		"object over 10 KiB":       {event(`"data":{"d":` + quote(strings.Repeat("d", 10<<10)) + `}`), 413, "over 10240 bytes"},
		"body over the limit":      {event(`"data":` + quote(strings.Repeat("d", 1<<20))), 413, "over 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.post("/events", test.body)
			a.refused(t, test.status, test.tell)
			if strings.Contains(a.body, "api.") || len(a.body) > 500 {
				t.Errorf("the text is not for a person: %.200s", a.body)
			}
		})
	}
}

func TestEventWithinLimits(t *testing.T) {
	f := newFixture(t, nil)
	for name, body := range map[string]string{
		"100 channels":         `{"name":"e","data":"d","channels":` + channelList(100) + `}`,
		"name of 200":          `{"name":` + quote(strings.Repeat("ü", 200)) + `,"data":"d","channel":"c"}`,
		"channel of 200":       `{"name":"e","data":"d","channel":` + quote(strings.Repeat("c", 200)) + `}`,
		"every byte of a name": `{"name":"e","data":"d","channel":"azAZ09_-=@,.;:"}`,
		"user channel":         `{"name":"e","data":"d","channel":` + quote("#server-to-user-"+strings.Repeat("u", 200)) + `}`,
		"user channel, any id": `{"name":"e","data":"d","channel":"#server-to-user-a b/ü"}`,
		"encrypted alone":      `{"name":"e","data":"d","channels":["private-encrypted-x"]}`,
		"data of 10 KiB":       `{"name":"e","data":` + quote(strings.Repeat("\n", 10<<10)) + `,"channel":"c"}`,
		"data empty":           `{"name":"e","data":"","channel":"c"}`,
		"data of a number":     `{"name":"e","data":0,"channel":"c"}`,
		"depth of 64":          `{"name":"e","data":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `,"channel":"c"}`,
		"unknown fields":       `{"name":"e","data":"d","channel":"c","tags":{"a":1},"info":"later"}`,
		"client- event":        `{"name":"client-e","data":"d","channel":"c"}`,
		"event like pusher":    `{"name":"pusherx","data":"d","channel":"c"}`,
		"no socket_id":         `{"name":"e","data":"d","channel":"c","socket_id":""}`,
		"socket_id nobody has": `{"name":"e","data":"d","channel":"c","socket_id":"123.456"}`,
	} {
		t.Run(name, func(t *testing.T) { f.post("/events", body).want(t, 200, "{}") })
	}
}

func TestAppLimits(t *testing.T) {
	f := newFixture(t, nil)
	f.app.Limits.MaxEventPayload = 3
	f.app.Limits.MaxEventBatch = 1
	f.app.Limits.MaxEventChannels = 1
	f.app.Limits.MaxEventNameLength = 2
	f.app.Limits.MaxChannelNameLength = 4
	f.post("/events", `{"name":"ev","data":"abc","channel":"four"}`).want(t, 200, "{}")
	f.post("/events", `{"name":"ev","data":"abcd","channel":"c"}`).refused(t, 413, "over 3 bytes")
	f.post("/events", `{"name":"ev","data":"a","channels":["c","d"]}`).refused(t, 400, "the limit is 1")
	f.post("/events", `{"name":"eve","data":"a","channel":"c"}`).refused(t, 400, "longer than 2")
	f.post("/events", `{"name":"ev","data":"a","channel":"fiver"}`).refused(t, 400, "channel name")
	f.post("/batch_events", `{"batch":[{"name":"ev","data":"a","channel":"c"},{"name":"ev","data":"a","channel":"c"}]}`).
		refused(t, 400, "2 events, the limit is 1")
}

func TestEventInfo(t *testing.T) {
	f := newFixture(t, nil)
	for i := range 3 {
		s := f.connect()
		s.subscribe(f, "presence-room", fmt.Sprintf(`{"user_id":"u%d"}`, i%2))
		if i == 0 {
			s.subscribe(f, "open", "")
		}
	}
	event := func(info string, channels ...string) string {
		list, _ := json.Marshal(channels)
		return `{"name":"e","data":"d","info":` + quote(info) + `,"channels":` + string(list) + `}`
	}
	f.post("/events", event("user_count,subscription_count", "presence-room")).
		want(t, 200, `{"channels":{"presence-room":{"user_count":2,"subscription_count":3}}}`)
	f.post("/events", event("subscription_count", "open", "nobody")).
		want(t, 200, `{"channels":{"nobody":{"subscription_count":0},"open":{"subscription_count":1}}}`)
	// As documented, channels without users are told without user_count and not refused.
	f.post("/events", event(" user_count , subscription_count", "presence-room", "open")).
		want(t, 200, `{"channels":{"open":{"subscription_count":1},"presence-room":{"user_count":2,"subscription_count":3}}}`)
	f.post("/events", event("user_count", "open")).want(t, 200, `{"channels":{"open":{}}}`)
	f.post("/events", event("cache,other", "cache-x")).want(t, 200, "{}")

	f.post("/batch_events", `{"batch":[`+
		`{"name":"e","data":"d","channel":"presence-room","info":"user_count,subscription_count"},`+
		`{"name":"e","data":"d","channel":"open"},`+
		`{"name":"e","data":"d","channel":"open","info":"user_count,subscription_count"}]}`).
		want(t, 200, `{"batch":[{"user_count":2,"subscription_count":3},{},{"subscription_count":1}]}`)
}

func TestBatch(t *testing.T) {
	f := newFixture(t, nil)
	s := f.connect()
	s.subscribe(f, "c", "")
	batch := func(n int) string {
		events := make([]string, n)
		for i := range events {
			events[i] = fmt.Sprintf(`{"name":"e%d","data":"d","channel":"c"}`, i)
		}
		return `{"batch":[` + strings.Join(events, ",") + `]}`
	}
	f.post("/batch_events", batch(10)).want(t, 200, "{}")
	for i := range 10 {
		s.next(fmt.Sprintf("e%d", i))
	}
	f.post("/batch_events", `{"batch":[]}`).want(t, 200, "{}")
	f.post("/batch_events", batch(11)).refused(t, 400, "11 events, the limit is 10")
	f.post("/batch_events", `{}`).refused(t, 400, "batch is missing")
	f.post("/batch_events", `{"batch":{}}`).refused(t, 400, "batch has the wrong type: object instead of array")
	f.post("/batch_events", `{"batch":["e"]}`).refused(t, 400, "batch has the wrong type: string instead of object")
	f.post("/batch_events", `{"batch":[{"name":"e","data":"d"}]}`).refused(t, 400, "channel name")
	f.post("/batch_events", `{"batch":[{"name":"e","data":"d","channel":["c"]}]}`).refused(t, 400, "channel", "array instead of string")
	f.post("/batch_events", `{"batch":[{"name":"e","data":`+quote(strings.Repeat("d", 10<<10+1))+`,"channel":"c"}]}`).refused(t, 413)
	// One bad event refuses all: nothing of the batch is published.
	f.post("/batch_events", `{"batch":[{"name":"good","data":"d","channel":"c"},{"name":"pusher:x","data":"d","channel":"c"}]}`).
		refused(t, 400, "reserved")
	f.post("/events", `{"name":"last","data":"d","channel":"c"}`).want(t, 200, "{}")
	s.next("last")
}
