package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// found does one round of the founding vote.
func (s *seeker) found() verdict {
	before, voted := s.disk.Round, len(s.disk.Vote)
	if s.takeBack() {
		s.waiting = "the other founders to agree again"
		return verdict{save: true}
	}
	candidates := s.candidates()
	if s.expect == 0 || !s.self.HasRole(RoleStore) {
		s.waiting = "a running cluster: this node may only join, for cluster.bootstrap_expect is 0 " +
			"or it lacks the role store"
		return verdict{}
	}
	if voted == 0 {
		for _, peer := range candidates {
			s.disk.Round = max(s.disk.Round, peer.Round)
		}
	}
	if voted == 0 && s.rival != "" {
		s.proposal = nil
		s.waiting = "a decision whose data the cluster gets, that of this node or of " + s.rival
		return verdict{save: s.disk.Round != before}
	}
	s.proposal = s.propose(candidates)
	if len(s.proposal) == 0 {
		s.waiting = fmt.Sprintf("%d nodes with role store (cluster.bootstrap_expect), %d are here: %s",
			s.expect, len(candidates)+1, s.describe(candidates))
		return verdict{save: s.disk.Round != before}
	}
	if voted == 0 && s.mayVote() {
		s.disk.Vote = s.membersOf(s.proposal)
		voted = len(s.disk.Vote)
	}
	save := s.disk.Round != before || len(s.disk.Vote) > 0
	if voted > 0 && s.complete() {
		members := map[string]Member{}
		merge(members, s.membersOf(s.proposal))
		cluster := foundingID(s.self.Domain, s.disk.Round, s.proposal)
		return verdict{save: true, decision: s.decide(Form, cluster, members)}
	}
	s.waiting = "agreement with " + s.disagreeing()
	return verdict{save: save}
}

// takeBack leaves a vote that can never be complete any more.
func (s *seeker) takeBack() bool {
	vote := memberIDs(s.disk.Vote)
	for _, id := range vote {
		peer, ok := s.peers[id]
		if !ok || id == s.self.ID || peer.Cluster != "" {
			continue
		}
		other := len(peer.Vote) > 0 && !slices.Equal(peer.Vote, vote)
		if peer.Round > s.disk.Round || peer.Round == s.disk.Round && other {
			s.disk.Round = max(s.disk.Round+1, peer.Round)
			s.disk.Vote, s.proposal = nil, nil
			return true
		}
	}
	return false
}

// candidates are the peers that this node could found a cluster with.
func (s *seeker) candidates() []*heardPeer {
	var result []*heardPeer
	s.rival = ""
	for _, peer := range s.sorted() {
		switch {
		case peer.Phase != phaseSeeking || !peer.Self.HasRole(RoleStore) || peer.Expect == 0:
		case peer.Cluster != "":
			s.problem("returning "+peer.Cluster, fmt.Sprintf("%s belongs to cluster %s, which is not "+
				"running; start the rest of its members and this node will join it",
				peer.Self.label(), peer.Cluster))
		case peer.Expect != s.expect:
			s.problem("expect "+peer.Self.ID, fmt.Sprintf("%s has cluster.bootstrap_expect %d and this "+
				"node %d; set the same on every node", peer.Self.label(), peer.Expect, s.expect))
		case peer.Self.Importing && s.self.Importing:
			s.rival = peer.Self.label()
			s.problem("rival "+peer.Self.ID, fmt.Sprintf("%s and this node both have data from running "+
				"alone, and Parley does not merge it; stop the one whose data the cluster shall not have, "+
				"and give it an empty data directory (node.data_dir)", peer.Self.label()))
		case len(peer.Vote) > 0 && !slices.Contains(peer.Vote, s.self.ID):
		default:
			result = append(result, peer)
		}
	}
	return result
}

// propose returns the ids of the set to found with, sorted, or nothing if there are too few.
func (s *seeker) propose(candidates []*heardPeer) []string {
	if len(s.disk.Vote) > 0 {
		return memberIDs(s.disk.Vote)
	}
	// A vote that waits for this node comes first, else both would wait for ever.
	var joined []string
	for _, peer := range candidates {
		if len(peer.Vote) > 0 && peer.Round == s.disk.Round &&
			(joined == nil || slices.Compare(peer.Vote, joined) < 0) {
			joined = peer.Vote
		}
	}
	if joined != nil {
		return joined
	}
	ids := []string{s.self.ID}
	for _, peer := range candidates {
		ids = append(ids, peer.Self.ID)
	}
	if len(ids) < s.expect {
		return nil
	}
	slices.Sort(ids)
	if ids = ids[:s.expect]; !slices.Contains(ids, s.self.ID) {
		return nil
	}
	return ids
}

// mayVote says whether all other nodes of the proposal agree.
func (s *seeker) mayVote() bool {
	return len(s.proposal) == s.expect && slices.Contains(s.proposal, s.self.ID) && s.others(s.agrees)
}

// agrees says whether a node proposes or has voted for the same set in this round, and just
// answered.
func (s *seeker) agrees(peer *heardPeer) bool {
	agreed := peer.Vote
	if len(agreed) == 0 {
		agreed = peer.Proposal
	}
	return peer.age == 0 && peer.Round == s.disk.Round && slices.Equal(agreed, s.proposal)
}

// complete says whether every other node of the proposal has voted for it in this round.
func (s *seeker) complete() bool { return s.others(s.votedAlike) }

func (s *seeker) votedAlike(peer *heardPeer) bool {
	return peer.belongsTo(foundingID(s.self.Domain, s.disk.Round, s.proposal))
}

func (s *seeker) others(holds func(*heardPeer) bool) bool {
	for _, id := range s.proposal {
		if id == s.self.ID {
			continue
		}
		if peer, ok := s.peers[id]; !ok || !holds(peer) {
			return false
		}
	}
	return true
}

// membersOf returns the records of the nodes with these ids, as far as they are known.
func (s *seeker) membersOf(ids []string) []Member {
	known := map[string]Member{s.self.ID: s.self}
	for _, member := range s.disk.Vote {
		if member.ID != s.self.ID {
			known[member.ID] = member
		}
	}
	for id, peer := range s.peers {
		known[id] = peer.Self
	}
	result := make([]Member, 0, len(ids))
	for _, id := range ids {
		if member, ok := known[id]; ok {
			result = append(result, member)
		}
	}
	return result
}

// disagreeing names the nodes of the proposal whose agreement, or vote, is not here yet.
func (s *seeker) disagreeing() string {
	holds := s.agrees
	if len(s.disk.Vote) > 0 {
		holds = s.votedAlike
	}
	var names []string
	for _, member := range s.membersOf(s.proposal) {
		peer, ok := s.peers[member.ID]
		if member.ID == s.self.ID || ok && holds(peer) {
			continue
		}
		name := member.label()
		if !ok && len(s.disk.Vote) > 0 {
			name += ", which agreed to found the cluster and is silent now: start it again, or, if " +
				"it is gone for good, remove cluster.json from the data directories of the others"
		}
		names = append(names, name)
	}
	return strings.Join(names, "; ")
}

func (s *seeker) describe(candidates []*heardPeer) string {
	names := []string{"this one"}
	for _, peer := range candidates {
		names = append(names, peer.Self.label())
	}
	return strings.Join(names, ", ")
}
