package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
)

// subjectMembers is where heartbeats and the like are published.
const subjectMembers = "cluster.members"

// errMessage says that bytes are no message of this protocol.
var errMessage = errors.New("malformed cluster message")

type messageKind string

const (
	kindHeartbeat messageKind = "heartbeat"
	kindLeave     messageKind = "leave" // the sender goes, on purpose
)

// message is what members send to all others, as JSON.
type message struct {
	Kind   messageKind `json:"kind"`
	Oldest int         `json:"oldest"` // versions spoken
	Newest int         `json:"newest"`
	Member Member      `json:"member"` // the sender
	Load   int         `json:"load"`   // connections it serves
	// Live are the members of the sender's view by ID with their incarnations. Out are those
	// that it holds for dead and that did not leave, the latest maxOut.
	Live map[string]uint64 `json:"live,omitempty"`
	Out  map[string]uint64 `json:"out,omitempty"`
	// Forgotten are nodes that were taken out for good, the latest maxForgottenTold.
	Forgotten []string `json:"forgotten,omitempty"`
}

// decodeMessage reads a message of a node of the domain.
func decodeMessage(payload []byte, domain string) (message, error) {
	var result message
	if len(payload) > maxHeartbeatSize {
		return message{}, fmt.Errorf("%w: %d bytes", errMessage, len(payload))
	}
	if err := json.Unmarshal(payload, &result); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	if err := result.check(domain); err != nil {
		return message{}, fmt.Errorf("%w: %w", errMessage, err)
	}
	return result, nil
}

func (m message) check(domain string) error {
	switch m.Kind {
	case kindHeartbeat, kindLeave:
	default:
		return fmt.Errorf("kind %.20q is unknown", m.Kind)
	}
	if m.Oldest > versionNewest || m.Newest < versionOldest {
		return fmt.Errorf("versions %d to %d, this program speaks %d to %d",
			m.Oldest, m.Newest, versionOldest, versionNewest)
	}
	if len(m.Live) > MaxMembers || len(m.Out) > MaxMembers || len(m.Forgotten) > maxForgottenTold {
		return fmt.Errorf("more than %d members or %d forgotten ones", MaxMembers, maxForgottenTold)
	}
	for _, id := range m.Forgotten {
		if !uuidPattern.MatchString(id) {
			return fmt.Errorf("node id %.50q is malformed", id)
		}
	}
	for _, dead := range m.Out {
		if dead > maxCounter {
			return fmt.Errorf("incarnation %d is beyond all starts of a node", dead)
		}
	}
	if m.Member.Domain != domain {
		return fmt.Errorf("domain %.50q", m.Member.Domain)
	}
	return m.Member.check()
}
