package cluster

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
	"time"
)

// FuzzHello feeds bytes to every decoder of the hello protocol: as what a stranger sends, and
// as what somebody with the secret sends.
func FuzzHello(f *testing.F) {
	told := seeking(1)
	told.Members, told.Heard = []Member{testMember(2)}, []string{"10.0.0.9:11110"}
	told.Vote = []string{testMember(1).ID}
	body, err := json.Marshal(told)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte(`{"protocol":"parley-hello/1","domain":"d","nonce":"AAAAAAAAAAAAAAAAAAAAAA=="}`))
	key, script := []byte("key"), transcript(nil, nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		if frame, err := readFrame(bytes.NewReader(data), maxGreetingSize); err == nil {
			var again bytes.Buffer
			if err := writeFrame(&again, frame, maxGreetingSize); err != nil ||
				!bytes.HasPrefix(data, again.Bytes()) {
				t.Fatalf("frame %q became %q, %v", data, again.Bytes(), err)
			}
		}
		if opening, err := decodeGreeting(data); err == nil {
			checkGreeting(opening, "d")
		}
		if _, err := open(key, speakerAsker, script, data); err == nil {
			t.Fatalf("bytes without a proof were accepted: %q", data)
		}
		if !json.Valid(data) {
			return
		}
		envelope, err := json.Marshal(sealed{MAC: proof(key, speakerAsker, script, compact(data)), Body: data})
		if err != nil {
			return
		}
		accepted, err := open(key, speakerAsker, script, envelope)
		if err != nil {
			return
		}
		if frame, err := seal(key, speakerAsker, script, accepted); err != nil {
			t.Fatalf("accepted and cannot be said again: %v", err)
		} else if _, err := open(key, speakerAsker, script, frame); err != nil {
			t.Fatalf("accepted once and not twice: %v", err)
		}
		seeker := newSeeker(testMember(7), 2, remembered{})
		for range 3 {
			seeker.step([]statement{accepted}, func(string) bool { return true })
			seeker.statement()
		}
	})
}

// compact is what Marshal makes of a RawMessage.
func compact(data []byte) []byte {
	out, err := json.Marshal(json.RawMessage(data))
	if err != nil {
		return nil
	}
	return out
}

// FuzzHeartbeat feeds a decoded message to a table and checks the view that comes of it.
func FuzzHeartbeat(f *testing.F) {
	other := newTable(testMember(2), time.Second, 5*time.Second)
	other.heard(0, message{Kind: kindHeartbeat, Member: testMember(1)})
	other.tick(10 * time.Second)
	for _, kind := range []messageKind{kindHeartbeat, kindLeave} {
		payload, err := json.Marshal(other.heartbeat(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		received, err := decodeMessage(payload, "test")
		if err != nil {
			return
		}
		table := newTable(testMember(1), time.Second, 5*time.Second)
		table.heard(0, message{Kind: kindHeartbeat, Member: testMember(2)})
		for _, now := range []time.Duration{0, time.Second, 8 * time.Second} {
			table.heard(now, received)
			table.tick(now)
		}
		ids := memberIDs(table.view.Members)
		if !slices.Contains(ids, testMember(1).ID) || !slices.IsSorted(ids) ||
			len(slices.Compact(ids)) != len(table.view.Members) {
			t.Fatalf("view is %v", ids)
		}
	})
}

// FuzzSeed reads any text as a seed.
func FuzzSeed(f *testing.F) {
	for _, text := range []string{"10.0.0.5-9:1", "10.0.0.*", "[::1]:1", "a.example"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseSeed(text, DefaultPort, 5)
		if err != nil {
			return
		}
		if (parsed.host == "") == (parsed.addrs == nil) || len(parsed.ports) == 0 || len(parsed.addrs) > 256 {
			t.Fatalf("%q became %+v", text, parsed)
		}
	})
}
