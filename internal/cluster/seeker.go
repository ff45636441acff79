package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind is what Discover decided.
type Kind string

// Kinds of a Decision.
const (
	Join   Kind = "join"   // a running cluster was found; its members are the routes
	Form   Kind = "form"   // this node and others found a new cluster together
	Met    Kind = "met"    // the nodes share a bus and find each other there, see Meet
	Reform Kind = "reform" // a majority of the members of before are back, none was running
)

// peerRounds is for how many rounds without an answer a peer is still counted as there.
const peerRounds = 3

// remembered is what a node keeps on disk of its cluster and of a founding under way.
type remembered struct {
	Cluster string   `json:"cluster,omitempty"` // cluster id; empty before the first time
	Members []Member `json:"members,omitempty"` // of Cluster, dead ones too
	Round   uint64   `json:"round,omitempty"`   // of the founding, never goes back
	Vote    []Member `json:"vote,omitempty"`    // the set voted for in Round, if any
	// Forgotten are the ids of nodes that were taken out of Cluster for good, oldest first.
	Forgotten []string `json:"forgotten,omitempty"`
	Boots     uint64   `json:"boots"` // starts of this node
}

// problem is something that a person should look at. It does not end the search.
type problem struct {
	key  string // logged once for each key
	text string
}

// seeker decides whether to join, form or go on asking. It is pure: the caller asks the
// addresses, gives it the answers of a round, saves and publishes what changed.
//
// A cluster is founded by a vote of exactly expect nodes. Each proposes the smallest ids it
// hears and votes for a set when every node of it proposes or has voted for that same set in
// the same round; it has formed when it sees the votes of all. A node has one vote in a round
// and saves it before anybody sees it. It takes the vote back, by going to a later round, only
// when a node of the set has another vote in that round or is in a later one: then the set
// can never have all its votes. So no two different sets with a node in common both form.
type seeker struct {
	self   Member
	expect int
	disk   remembered

	peers    map[string]*heardPeer
	proposal []string
	problems []problem
	waiting  string
	rival    string // another node that brings data of its own, if any
}

// heardPeer is the last statement of a node and the rounds since it was made.
type heardPeer struct {
	statement
	age int
}

// verdict is what one round led to. Save asks the caller to write seeker.disk before anything
// else; Decision is nil while the search goes on.
type verdict struct {
	save     bool
	decision *Decision
}

func newSeeker(self Member, expect int, disk remembered) *seeker {
	return &seeker{self: self, expect: expect, disk: disk, peers: map[string]*heardPeer{}}
}

// statement is what the node says of itself now.
func (s *seeker) statement() statement {
	return statement{
		Oldest: versionOldest, Newest: versionNewest, Phase: phaseSeeking, Self: s.self,
		Cluster: s.disk.Cluster, Members: s.disk.Members, Forgotten: s.disk.Forgotten, Expect: s.expect,
		Round: s.disk.Round, Proposal: s.proposal, Vote: memberIDs(s.disk.Vote),
	}
}

// step takes the answers of one round. The addresses asked in it are given by asked. The
// error, if any, is final.
func (s *seeker) step(answers []statement, asked func(address string) bool) (verdict, error) {
	s.problems, s.waiting = nil, ""
	if err := s.hear(answers); err != nil {
		return verdict{}, err
	}
	if s.doubtful(asked) {
		s.waiting = "whoever else was last seen with this node's id"
		return verdict{}, nil
	}
	if decision, settled, err := s.running(); settled || err != nil {
		return verdict{save: decision != nil, decision: decision}, err
	}
	if s.disk.Cluster != "" {
		return s.reform(), nil
	}
	return s.found(), nil
}

// hear keeps the answers and finds what is wrong with them.
func (s *seeker) hear(answers []statement) error {
	for id, peer := range s.peers {
		if peer.age++; peer.age > peerRounds {
			delete(s.peers, id)
		}
	}
	for _, answer := range answers {
		switch {
		case answer.Self.ID == s.self.ID && answer.Self.Instance == s.self.Instance:
			continue // own address among the seeds
		case answer.Self.ID == s.self.ID:
			return fmt.Errorf("%w: %s runs with the same id as this node; if this data directory was "+
				"copied from there, remove node.id, cluster.json and the engine's files from the copy; "+
				"if it is the same node, stop the other process first", ErrIdentityInUse, answer.Self.label())
		case slices.Contains(answer.Forgotten, s.self.ID):
			return fmt.Errorf("%w: %s says that this node was taken out of the cluster for good with "+
				"\"parley cluster forget\"; to let it join as a new node, empty its data directory (node.data_dir)",
				ErrForgotten, answer.Self.label())
		case slices.Contains(s.disk.Forgotten, answer.Self.ID):
			continue // it is told the same by us
		case !answer.compatible():
			text := versionAdvice(answer)
			if answer.Phase == phaseFormed {
				return fmt.Errorf("%w: %s", ErrIncompatible, text)
			}
			s.problem("version "+answer.Self.ID, text)
			continue
		}
		if before, ok := s.peers[answer.Self.ID]; ok && before.age == 0 &&
			before.Self.Instance != answer.Self.Instance {
			s.problem("copy "+answer.Self.ID, fmt.Sprintf("%s and %s have the same id: one data "+
				"directory is a copy of the other", before.Self.label(), answer.Self.label()))
		}
		s.peers[answer.Self.ID] = &heardPeer{statement: answer}
	}
	return nil
}

func (s *seeker) problem(key, text string) {
	s.problems = append(s.problems, problem{key, text})
}

// sorted returns the peers in the order of their ids.
func (s *seeker) sorted() []*heardPeer {
	result := make([]*heardPeer, 0, len(s.peers))
	for _, id := range slices.Sorted(maps.Keys(s.peers)) {
		result = append(result, s.peers[id])
	}
	return result
}

// doubtful says whether a member with this node's id but of another process is known at an
// address that was not asked yet: it may be a copy of this node that runs.
func (s *seeker) doubtful(asked func(address string) bool) bool {
	for _, peer := range s.peers {
		for _, member := range peer.Members {
			if member.ID == s.self.ID && member.Instance != s.self.Instance &&
				!asked(member.Addresses[AddressHello]) {
				return true
			}
		}
	}
	return false
}

// running looks for a cluster that runs. Settled is true when there is nothing else to try in
// this round.
func (s *seeker) running() (decision *Decision, settled bool, err error) {
	formed := map[string][]*heardPeer{}
	for _, peer := range s.sorted() {
		if peer.Phase == phaseFormed && peer.age == 0 {
			formed[peer.Cluster] = append(formed[peer.Cluster], peer)
		}
	}
	for id, peers := range formed {
		if s.disk.Cluster != "" && id != s.disk.Cluster {
			return nil, true, fmt.Errorf("%w: this node belongs to cluster %s, and %s to cluster %s; "+
				"give one of them another cluster.domain, or, to let this node join there without its "+
				"old data, remove cluster.json and the engine's files from its data directory",
				ErrOtherCluster, s.disk.Cluster, peers[0].Self.label(), id)
		}
	}
	switch len(formed) {
	case 0:
		return nil, false, nil
	case 1:
	default:
		s.problem("split", fmt.Sprintf("clusters %s run in domain %s at the same time; stop the nodes "+
			"of all but one, or give them another cluster.domain",
			strings.Join(slices.Sorted(maps.Keys(formed)), " and "), s.self.Domain))
		s.waiting = "one of the clusters to be stopped"
		return nil, true, nil
	}
	for id, peers := range formed {
		decision, err = s.follow(id, peers)
	}
	return decision, true, err
}

// follow joins the one cluster that runs, unless something forbids it.
func (s *seeker) follow(cluster string, peers []*heardPeer) (*Decision, error) {
	members := map[string]Member{}
	for _, peer := range peers {
		merge(members, append(peer.Members, peer.Self))
		s.disk.Forgotten = forgetAlso(s.disk.Forgotten, peer.Forgotten)
	}
	vote := memberIDs(s.disk.Vote)
	if len(vote) > 0 && cluster == foundingID(s.self.Domain, s.disk.Round, vote) {
		return s.decide(Form, cluster, members), nil
	}
	if s.self.Importing && s.disk.Cluster != cluster {
		return nil, fmt.Errorf("%w: this node has what it stored while it ran alone, and cluster %s of %s "+
			"has data of its own; Parley does not merge the two. To let this node join without its old "+
			"data, give it an empty data directory (node.data_dir) and keep the old one; to bring the old "+
			"data into a cluster, found a new one with this node and others whose data directories are empty",
			ErrBringsData, cluster, peers[0].Self.label())
	}
	if len(vote) > 0 {
		if !slices.ContainsFunc(vote, func(id string) bool { _, ok := members[id]; return ok }) {
			s.problem("vote", fmt.Sprintf("this node has agreed to found a cluster with %s while cluster "+
				"%s was founded without any of them; see that cluster.bootstrap_expect is more than half "+
				"of all nodes, then remove cluster.json from the data directory of those that wait",
				strings.Join(vote, ", "), cluster))
			return nil, nil
		}
	}
	if _, known := members[s.self.ID]; !known && len(members) >= MaxMembers {
		s.problem("full", fmt.Sprintf("cluster %s has %d members, the most it may have; forget some "+
			"that are gone for good", cluster, MaxMembers))
		return nil, nil
	}
	return s.decide(Join, cluster, members), nil
}

// decide makes the decision and what is to be saved with it.
func (s *seeker) decide(kind Kind, cluster string, members map[string]Member) *Decision {
	for _, id := range s.disk.Forgotten {
		delete(members, id)
	}
	members[s.self.ID] = s.self
	list := sortMembers(slices.Collect(maps.Values(members)))
	s.disk.Cluster, s.disk.Members, s.disk.Vote = cluster, list, nil
	return &Decision{Kind: kind, Cluster: cluster, Self: s.self, Members: list, Forgotten: s.disk.Forgotten}
}

// merge adds members; of two records of a node the one with the later incarnation stays, and
// of the same incarnation the one that has done its import.
func merge(into map[string]Member, members []Member) {
	for _, member := range members {
		before, ok := into[member.ID]
		if !ok || before.Incarnation < member.Incarnation ||
			before.Incarnation == member.Incarnation && before.Importing && !member.Importing {
			into[member.ID] = member
		}
	}
}

// forgetAlso adds ids to those that are forgotten and keeps the latest maxForgotten.
func forgetAlso(forgotten, ids []string) []string {
	for _, id := range ids {
		if !slices.Contains(forgotten, id) {
			forgotten = append(slices.Clip(forgotten), id)
		}
	}
	return forgotten[max(0, len(forgotten)-maxForgotten):]
}

// reform waits for a majority of the store members that this node and those that it hears
// remember. The engine has them on its own record, so any number of them may start; the
// majority is there to learn of members that joined while this node was away.
func (s *seeker) reform() verdict {
	members := map[string]Member{}
	merge(members, s.disk.Members)
	present := map[string]bool{s.self.ID: true}
	for _, peer := range s.sorted() {
		if peer.belongsTo(s.disk.Cluster) {
			merge(members, append(peer.Members, peer.Self))
			s.disk.Forgotten = forgetAlso(s.disk.Forgotten, peer.Forgotten)
			present[peer.Self.ID] = true
		}
	}
	for _, id := range s.disk.Forgotten {
		delete(members, id)
	}
	members[s.self.ID] = s.self
	stores, there, missing := 0, 0, []string{}
	for _, member := range sortMembers(slices.Collect(maps.Values(members))) {
		if !member.HasRole(RoleStore) {
			continue
		}
		stores++
		if present[member.ID] {
			there++
		} else {
			missing = append(missing, member.label())
		}
	}
	if there*2 > stores {
		return verdict{save: true, decision: s.decide(Reform, s.disk.Cluster, members)}
	}
	s.waiting = fmt.Sprintf("a majority of the %d store members of cluster %s, %d are here; missing: %s",
		stores, s.disk.Cluster, there, strings.Join(missing, ", "))
	return verdict{}
}

// belongsTo says whether the node remembers the cluster, or has voted for it.
func (p *heardPeer) belongsTo(cluster string) bool {
	return p.Cluster == cluster ||
		p.Cluster == "" && len(p.Vote) > 0 && foundingID(p.Self.Domain, p.Round, p.Vote) == cluster
}

// foundingID is the id of the cluster that a set of nodes founds, the same on each of them.
func foundingID(domain string, round uint64, ids []string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%d\n%s", domain, round, strings.Join(ids, "\n")))
	return hex.EncodeToString(sum[:16])
}
