package protocol

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// text renders a change: o and v for occupied and vacated, the count, who came or went for
// the room and for this node.
func (c Change) text() string {
	s := ""
	if c.Occupied {
		s += "o"
	}
	if c.Vacated {
		s += "v"
	}
	s += fmt.Sprint(c.Count)
	if c.Member != nil {
		s += " member " + c.Member.UserID
	}
	if c.Here != nil {
		s += " here " + c.Here.UserID
	}
	return s
}

// A room is occupied, and a user a member, once over all nodes.
func TestRoomOverNodes(t *testing.T) {
	room := NewRoom("presence-x")
	subs := make(map[string]*Subscription)
	for i, step := range []struct{ do, want string }{
		{"join s1 u", "o1 member u here u"},
		{"join s2 u", "2"},
		{"add n1 u", "2"},
		{"add n1 u", "2"},
		{"count n1 1", "3"},
		{"leave s1", "2"},
		{"leave s2", "1 here u"},
		{"remove n2 u", "1"},
		{"add n2 u", "1"},
		{"remove n1 u", "1"},
		{"count n1 0", "v0"},
		{"count n1 0", "0"},
		{"remove n2 u", "0 member u"},
		{"remove n2 u", "0"},
		{"add n1 w", "0 member w"},
		{"count n1 3", "o3"},
		{"count n1 2", "2"},
		{"join s3 w", "3 here w"},
		{"remove n1 w", "3"},
		{"count n1 0", "1"},
		{"leave s3", "v0 member w here w"},
	} {
		words := strings.Fields(step.do + " -")
		var change Change
		switch words[0] {
		case "join":
			subs[words[1]] = &Subscription{Session: &Session{}, Member: &Member{UserID: words[2]}}
			change = room.Join(subs[words[1]])
		case "leave":
			change = room.Leave(subs[words[1]])
		case "add":
			change = room.AddRemoteMember(words[1], &Member{UserID: words[2]})
		case "remove":
			change = room.RemoveRemoteMember(words[1], words[2])
		case "count":
			var n int
			_, _ = fmt.Sscan(words[2], &n)
			change = room.SetRemoteCount(words[1], n)
		}
		if got := change.text(); got != step.want {
			t.Errorf("step %d, %s: got %q, want %q", i+1, step.do, got, step.want)
		}
	}
	if !room.Empty() || len(room.remote) != 0 || len(room.members) != 0 {
		t.Errorf("the room is left as %+v", room)
	}
}

func TestRoomIsFullForNewUsersOfAllNodes(t *testing.T) {
	room := NewRoom("presence-x")
	room.AddRemoteMember("n1", &Member{UserID: "a"})
	room.Join(&Subscription{Session: &Session{}, Member: &Member{UserID: "b"}})
	for user, want := range map[string]bool{"a": false, "b": false, "c": true} {
		if got := room.Full(&Member{UserID: user}, 2); got != want {
			t.Errorf("full for %s: %t", user, got)
		}
	}
	if room.Full(nil, 0) {
		t.Error("full for somebody who is no member")
	}
	if room.Has("a") || !room.Has("b") || room.Has("c") {
		t.Error("Has does not tell who is on this node")
	}
	if list := room.MemberList(); len(list) != 2 || list[0].UserID != "a" || list[1].UserID != "b" {
		t.Errorf("members %v", list)
	}
}

// The transitions that are told, added up, are the state, whatever happens.
func TestRoomTellsEveryTransition(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		room := NewRoom("presence-x")
		var subs []*Subscription
		remote := make(map[string]map[string]bool) // node, user
		counts := make(map[string]int)
		told := make(map[string]bool)
		occupied := false
		for range 300 {
			node := fmt.Sprint("n", random.IntN(3))
			user := fmt.Sprint("u", random.IntN(4))
			var change Change
			came := false
			switch random.IntN(5) {
			case 0:
				s := &Subscription{Session: &Session{}, Member: &Member{UserID: user}}
				subs = append(subs, s)
				change, came = room.Join(s), true
			case 1:
				if len(subs) == 0 {
					continue
				}
				i := random.IntN(len(subs))
				change = room.Leave(subs[i])
				subs = append(subs[:i], subs[i+1:]...)
			case 2:
				if remote[node] == nil {
					remote[node] = make(map[string]bool)
				}
				remote[node][user] = true
				change, came = room.AddRemoteMember(node, &Member{UserID: user}), true
			case 3:
				delete(remote[node], user)
				change = room.RemoveRemoteMember(node, user)
			case 4:
				counts[node] = random.IntN(3)
				change = room.SetRemoteCount(node, counts[node])
			}
			if m := change.Member; m != nil {
				if told[m.UserID] == came {
					t.Fatalf("seed %d: %s told twice", seed, m.UserID)
				}
				told[m.UserID] = came
			}
			if change.Occupied && occupied || change.Vacated && !occupied {
				t.Fatalf("seed %d: told twice that it is occupied or vacated", seed)
			}
			occupied = occupied && !change.Vacated || change.Occupied
			want := make(map[string]bool)
			for _, s := range subs {
				want[s.Member.UserID] = true
			}
			total := len(subs)
			for _, users := range remote {
				for user := range users {
					want[user] = true
				}
			}
			for _, n := range counts {
				total += n
			}
			for i := range 4 {
				if user := fmt.Sprint("u", i); told[user] != want[user] {
					t.Fatalf("seed %d: told of %s %t, want %t", seed, user, told[user], want[user])
				}
			}
			if room.Count() != total || change.Count != total || occupied != (total > 0) || room.Members() != len(want) {
				t.Fatalf("seed %d: count %d of %d, %d members of %d, occupied %t", seed, room.Count(), total,
					room.Members(), len(want), occupied)
			}
		}
	}
}
