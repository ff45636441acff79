package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// testMember makes a member whose id and addresses come from n.
func testMember(n int, roles ...string) Member {
	if len(roles) == 0 {
		roles = []string{RoleStore}
	}
	return Member{
		ID:       fmt.Sprintf("00000000-0000-4000-8000-%012x", n),
		Instance: fmt.Sprintf("%016x", n), Name: fmt.Sprintf("n%d", n), Domain: "test",
		Roles: roles, State: StateStarting, Incarnation: 1 << bootShift,
		Addresses: map[string]string{
			AddressHello: fmt.Sprintf("10.0.0.%d:11110", n),
			AddressRoute: fmt.Sprintf("10.0.0.%d:11111", n),
		},
	}
}

// world is a set of nodes that seek, in turns, without a network.
type world struct {
	t       *testing.T
	seekers map[int]*seeker
	formed  map[int]*Decision
	cut     func(from, to int) bool // whether from cannot ask to
	told    map[int][]statement     // what each has said, oldest first
	late    func(statements int) int
}

func newWorld(t *testing.T, expect int, nodes ...int) *world {
	w := &world{t: t, seekers: map[int]*seeker{}, formed: map[int]*Decision{},
		cut: func(int, int) bool { return false }, told: map[int][]statement{},
		late: func(statements int) int { return statements - 1 }}
	for _, n := range nodes {
		w.add(newSeeker(testMember(n), expect, remembered{}), n)
	}
	return w
}

func (w *world) add(s *seeker, n int) { w.seekers[n] = s }

func (w *world) statement(n int) statement {
	told := w.seekers[n].statement()
	if w.formed[n] != nil {
		told.Phase = phaseFormed
	}
	return told
}

// turn lets one node ask all others that it reaches.
func (w *world) turn(n int) error {
	if w.formed[n] != nil {
		return nil
	}
	var answers []statement
	for _, other := range w.order() {
		if other != n && !w.cut(n, other) {
			told := append(w.told[other], w.statement(other))
			answers = append(answers, told[w.late(len(told))])
		}
	}
	w.told[n] = append(w.told[n], w.statement(n))
	result, err := w.seekers[n].step(answers, func(string) bool { return true })
	w.formed[n] = result.decision
	return err
}

func (w *world) order() []int {
	var nodes []int
	for n := range w.seekers {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	return nodes
}

// rounds gives everybody that many turns.
func (w *world) rounds(count int) {
	w.t.Helper()
	for range count {
		for _, n := range w.order() {
			if err := w.turn(n); err != nil {
				w.t.Fatalf("node %d: %v", n, err)
			}
		}
	}
}

// kinds tells how each node decided, "1:form 2:- …".
func (w *world) kinds() string {
	var parts []string
	for _, n := range w.order() {
		kind := "-"
		if d := w.formed[n]; d != nil {
			kind = fmt.Sprintf("%s/%d", d.Kind, len(d.Members))
		}
		parts = append(parts, fmt.Sprintf("%d:%s", n, kind))
	}
	return strings.Join(parts, " ")
}

func (w *world) expect(want string) {
	w.t.Helper()
	if got := w.kinds(); got != want {
		w.t.Fatalf("decisions are %q, want %q", got, want)
	}
}

func TestNodesFormOnceEnoughAreThere(t *testing.T) {
	w := newWorld(t, 3, 1, 2)
	w.rounds(10)
	w.expect("1:- 2:-")
	if waits := w.seekers[1].waiting; !strings.Contains(waits, "2 are here") {
		t.Errorf("node 1 waits for %q", waits)
	}
	w.add(newSeeker(testMember(3), 3, remembered{}), 3)
	w.rounds(6)
	w.expect("1:form/3 2:form/3 3:form/3")
	if w.formed[1].Cluster != w.formed[3].Cluster || w.formed[1].Cluster == "" {
		t.Errorf("cluster ids are %q and %q", w.formed[1].Cluster, w.formed[3].Cluster)
	}
	if routes := w.formed[2].Routes(); !slices.Equal(routes, []string{"10.0.0.1:11111", "10.0.0.3:11111"}) {
		t.Errorf("routes of node 2 are %v", routes)
	}
}

func TestOthersJoinWithAllMembers(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3)
	w.rounds(6)
	w.add(newSeeker(testMember(4), 3, remembered{}), 4)
	w.add(newSeeker(testMember(5, RoleGateway), 0, remembered{}), 5)
	w.cut = func(_, to int) bool { return to != 2 } // one that answers is enough
	w.rounds(1)
	w.expect("1:form/3 2:form/3 3:form/3 4:join/4 5:join/4")
}

func TestMoreNodesThanExpectedStartTogether(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3, 4, 5)
	w.rounds(8)
	for n, kind := range map[int]Kind{1: Form, 2: Form, 3: Form, 4: Join, 5: Join} {
		if d := w.formed[n]; d == nil || d.Kind != kind || d.Cluster != w.formed[1].Cluster {
			t.Errorf("node %d decided %+v, want %s", n, d, kind)
		}
	}
}

func TestGatewaysDoNotFound(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.add(newSeeker(testMember(2, RoleGateway), 2, remembered{}), 2)
	w.rounds(8)
	w.expect("1:- 2:-")
}

func TestRestartOfAllNeedsTheMajority(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3, 4, 5)
	w.rounds(8)
	disks := map[int]remembered{}
	for n, s := range w.seekers {
		disks[n] = s.disk
	}
	// Node 1 was down while 4 and 5 joined and remembers three; node 5 remembers all.
	all := disks[5]
	all.Members = nil
	for n := 1; n <= 5; n++ {
		all.Members = append(all.Members, testMember(n))
	}
	disks[5] = all

	w = newWorld(t, 3)
	w.add(newSeeker(testMember(1), 3, disks[1]), 1)
	w.rounds(5)
	w.expect("1:-")
	w.add(newSeeker(testMember(5), 3, disks[5]), 5)
	w.rounds(5)
	w.expect("1:- 5:-") // two of five
	if waits := w.seekers[1].waiting; !strings.Contains(waits, "majority of the 5") ||
		!strings.Contains(waits, "n4") {
		t.Errorf("node 1 waits for %q", waits)
	}
	w.add(newSeeker(testMember(9), 3, remembered{}), 9) // a new node waits with them
	w.add(newSeeker(testMember(3), 3, disks[3]), 3)
	w.rounds(2)
	w.expect("1:reform/5 3:join/5 5:join/5 9:join/6")
}

func TestFounderThatMissedTheEndForms(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3)
	for w.formed[1] == nil {
		w.rounds(1)
	}
	// Node 1 formed, the others have voted only; all restart with what is on their disks.
	voted := w.seekers[2].disk
	voted.Cluster, voted.Members, voted.Round = "", nil, 0
	voted.Vote = []Member{testMember(1), testMember(2), testMember(3)}
	first := w.seekers[1].disk
	w = newWorld(t, 3)
	w.add(newSeeker(testMember(1), 3, first), 1)
	w.add(newSeeker(testMember(2), 3, voted), 2)
	w.rounds(3)
	w.expect("1:reform/3 2:form/3")
}

func TestFinalErrors(t *testing.T) {
	formed := statement{Oldest: 1, Newest: 1, Phase: phaseFormed, Self: testMember(2), Cluster: "c"}
	with := func(change func(*statement)) statement {
		s := formed
		change(&s)
		return s
	}
	tests := []struct {
		name    string
		disk    remembered
		answers []statement
		want    error
		problem string
	}{
		{"own address is a seed", remembered{}, []statement{with(func(s *statement) {
			s.Self, s.Phase, s.Cluster = testMember(1), phaseSeeking, ""
		})}, nil, ""},
		{"copied identity", remembered{}, []statement{with(func(s *statement) {
			s.Self = testMember(1)
			s.Self.Instance = "00000000000000ff"
		})}, ErrIdentityInUse, ""},
		{"other cluster", remembered{Cluster: "b"}, []statement{formed}, ErrOtherCluster, ""},
		{"too new", remembered{}, []statement{with(func(s *statement) {
			s.Oldest, s.Newest = 2, 3
		})}, ErrIncompatible, ""},
		{"too new and seeking", remembered{}, []statement{with(func(s *statement) {
			s.Oldest, s.Newest, s.Phase = 2, 3, phaseSeeking
		})}, nil, "versions 2 to 3"},
		{"two clusters", remembered{}, []statement{formed, with(func(s *statement) {
			s.Self, s.Cluster = testMember(3), "d"
		})}, nil, "c and d"},
		{"other number expected", remembered{}, []statement{with(func(s *statement) {
			s.Phase, s.Cluster, s.Expect = phaseSeeking, "", 5
		})}, nil, "bootstrap_expect 5"},
		{"a cluster is coming back", remembered{}, []statement{with(func(s *statement) {
			s.Phase, s.Expect = phaseSeeking, 2
		})}, nil, "belongs to cluster c"},
		{"two others with one id", remembered{}, []statement{
			with(func(s *statement) { s.Phase, s.Cluster = phaseSeeking, "" }),
			with(func(s *statement) {
				s.Phase, s.Cluster, s.Self.Instance = phaseSeeking, "", "00000000000000ff"
			})}, nil, "copy of the other"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newSeeker(testMember(1), 2, test.disk)
			result, err := s.step(test.answers, func(string) bool { return true })
			if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
				t.Fatalf("error is %v, want %v", err, test.want)
			}
			if result.decision != nil {
				t.Fatalf("decided %+v", result.decision)
			}
			var texts []string
			for _, problem := range s.problems {
				texts = append(texts, problem.text)
			}
			if all := strings.Join(texts, "\n"); !strings.Contains(all, test.problem) ||
				(test.problem == "" && all != "") {
				t.Fatalf("problems are %q, want %q", all, test.problem)
			}
		})
	}
}

func TestOwnOldAddressIsAskedBeforeJoining(t *testing.T) {
	s := newSeeker(testMember(1), 2, remembered{})
	old := testMember(1)
	old.Instance = "00000000000000ff"
	old.Addresses = map[string]string{AddressHello: "10.0.0.99:11110"}
	answer := statement{Oldest: 1, Newest: 1, Phase: phaseFormed, Cluster: "c", Self: testMember(2),
		Members: []Member{old, testMember(2)}}
	asked := false
	step := func() *Decision {
		result, err := s.step([]statement{answer}, func(address string) bool {
			return address != "10.0.0.99:11110" || asked
		})
		if err != nil {
			t.Fatal(err)
		}
		return result.decision
	}
	if step() != nil {
		t.Fatal("joined although a process with the same id may run")
	}
	asked = true
	if step() == nil {
		t.Fatal("did not join after the old address was asked")
	}
}

// TestFoundingIsSafe plays random orders, cuts, late answers and restarts, and demands that founders who
// have a node in common found the same cluster, and that everybody is in it at the end.
func TestFoundingIsSafe(t *testing.T) {
	for seed := range uint64(600) {
		random := rand.New(rand.NewPCG(seed, 1))
		expect := 2 + random.IntN(3)
		nodes := expect + random.IntN(expect) // expect is more than half of them
		var list []int
		for n := 1; n <= nodes; n++ {
			list = append(list, n)
		}
		w := newWorld(t, expect, list...)
		lost := map[[2]int]bool{}
		w.cut = func(from, to int) bool { return lost[[2]int{from, to}] }
		w.late = func(statements int) int { return max(0, statements-1-random.IntN(4)) }
		for range 60 {
			n := 1 + random.IntN(nodes)
			switch random.IntN(6) {
			case 0:
				lost[[2]int{n, 1 + random.IntN(nodes)}] = true
			case 1:
				clear(lost)
			case 2: // restart; a formed one stays, for it answers its cluster from the disk
				if w.told[n] = nil; w.formed[n] == nil {
					w.seekers[n] = newSeeker(testMember(n), expect, w.seekers[n].disk)
				}
			default:
				if err := w.turn(n); err != nil {
					t.Fatalf("seed %d: node %d: %v", seed, n, err)
				}
			}
		}
		clear(lost)
		w.late = func(statements int) int { return statements - 1 }
		w.rounds(15)
		cluster := ""
		for _, n := range w.order() {
			switch d := w.formed[n]; {
			case d == nil:
				t.Fatalf("seed %d: node %d waits for %q: %s", seed, n, w.seekers[n].waiting, w.kinds())
			case cluster == "":
				cluster = d.Cluster
			case d.Cluster != cluster:
				t.Fatalf("seed %d: two clusters: %s", seed, w.kinds())
			}
		}
	}
}

// A vote binds, so it is not given for the sake of a node that does not hear the others: it
// may be gone, or never get as far.
func TestNobodyVotesBeforeAllAgree(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3)
	w.cut = func(from, _ int) bool { return from == 3 }
	w.rounds(10)
	for n, s := range w.seekers {
		if len(s.disk.Vote) != 0 {
			t.Errorf("node %d voted for %v", n, memberIDs(s.disk.Vote))
		}
	}
	if waits := w.seekers[1].waiting; !strings.Contains(waits, "n3") || strings.Contains(waits, "n2") {
		t.Errorf("node 1 waits for %q", waits)
	}
	delete(w.seekers, 3)
	w.add(newSeeker(testMember(4), 3, remembered{}), 4) // another takes its place
	w.cut = func(int, int) bool { return false }
	w.rounds(10)
	w.expect("1:form/3 2:form/3 4:form/3")
}

// Who has voted waits for the others for ever, and says what to do.
func TestVoteBinds(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3)
	for len(w.seekers[1].disk.Vote) == 0 {
		w.rounds(1)
	}
	if len(w.seekers[3].disk.Vote) == 0 && w.formed[1] != nil {
		t.Fatal("formed without all votes")
	}
	voted := w.seekers[1].disk
	voted.Cluster, voted.Members = "", nil
	voted.Vote = []Member{testMember(1), testMember(2), testMember(3)}
	w = newWorld(t, 3, 4, 5)
	w.add(newSeeker(testMember(1), 3, voted), 1)
	w.rounds(10)
	w.expect("1:- 4:- 5:-")
	if waits := w.seekers[1].waiting; !strings.Contains(waits, "remove cluster.json") {
		t.Errorf("node 1 waits for %q", waits)
	}
	w.add(newSeeker(testMember(2), 3, remembered{}), 2) // they come back, one without its disk
	w.add(newSeeker(testMember(3), 3, voted), 3)
	w.rounds(10)
	if d := w.formed[1]; d == nil || d.Kind != Form || len(d.Members) < 3 {
		t.Errorf("node 1 decided %+v", d)
	}
}
