package apps

import (
	"encoding/json"
	"sync"
	"testing"
)

func TestFilterMatch(t *testing.T) {
	tests := []struct {
		name    string
		filter  Filter
		channel string
		want    bool
	}{
		{"empty filter", Filter{}, "chat", true},
		{"prefix", Filter{ChannelPrefix: "presence-"}, "presence-room", true},
		{"prefix in the middle", Filter{ChannelPrefix: "presence-"}, "a-presence-room", false},
		{"suffix", Filter{ChannelSuffix: "-eu"}, "chat-eu", true},
		{"suffix in the middle", Filter{ChannelSuffix: "-eu"}, "chat-eu-1", false},
		{"prefix and suffix", Filter{ChannelPrefix: "a", ChannelSuffix: "z"}, "a-z", true},
		{"prefix without suffix", Filter{ChannelPrefix: "a", ChannelSuffix: "z"}, "a-y", false},
		{"pattern anywhere", Filter{ChannelRegexp: `\d{3}`}, "room-123-x", true},
		{"pattern bound", Filter{ChannelRegexp: `^\d{3}$`}, "room-123-x", false},
		{"pattern and prefix", Filter{ChannelPrefix: "room-", ChannelRegexp: `[ab]$`}, "room-b", true},
		{"pattern without prefix", Filter{ChannelPrefix: "room-", ChannelRegexp: `[ab]$`}, "hall-b", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if err := test.filter.Compile(); err != nil {
				t.Fatal(err)
			}
			if got := test.filter.Match(test.channel); got != test.want {
				t.Errorf("Match(%q) = %v, want %v", test.channel, got, test.want)
			}
		})
	}
}

func TestFilterBadPatternMatchesNothing(t *testing.T) {
	filter := Filter{ChannelRegexp: "good"}
	if err := filter.Compile(); err != nil {
		t.Fatal(err)
	}
	filter.ChannelRegexp = "(["
	if err := filter.Compile(); err == nil {
		t.Error("Compile accepted an invalid pattern")
	}
	if filter.Match("good") {
		t.Error("Match is true after a failed Compile")
	}
}

func TestFilterWithoutPatternStaysZeroInJSON(t *testing.T) {
	hook := Webhook{URL: "http://example.com"}
	if err := hook.Filter.Compile(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(hook)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"url":"http://example.com"}`; string(text) != want {
		t.Errorf("JSON is %s, want %s", text, want)
	}
}

func TestFilterConcurrentMatch(t *testing.T) {
	filter := Filter{ChannelRegexp: "^a+$"}
	if err := filter.Compile(); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				if !filter.Match("aaa") || filter.Match("aab") {
					t.Error("concurrent Match is wrong")
				}
			}
		})
	}
	group.Wait()
}
