package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// State is how far a node is.
type State string

// States of a node.
const (
	StateStarting State = "starting" // in the cluster, does not serve yet
	StateReady    State = "ready"
	StateDraining State = "draining" // serves those it has, takes no new ones
)

// Member is the record of a node as every node sees it. It is a value: nobody may change its
// slices and maps.
type Member struct {
	ID         string            `json:"id"`       // UUID, kept in the data directory
	Instance   string            `json:"instance"` // random, of this run of the process
	Name       string            `json:"name"`
	Domain     string            `json:"domain"`
	SubDomain  string            `json:"sub_domain,omitempty"`
	Roles      []string          `json:"roles"` // sorted
	Properties map[string]string `json:"properties,omitempty"`
	Addresses  map[string]string `json:"addresses"` // advertised, by kind
	Version    string            `json:"version,omitempty"`
	State      State             `json:"state"`
	// Importing tells that the node brings into the cluster what it stored alone. Until it has,
	// nobody uses what is stored.
	Importing bool `json:"importing,omitempty"`
	// Incarnation grows with each start of the node and each time it was declared dead and
	// came back.
	Incarnation uint64 `json:"incarnation"`
	// Since is the epoch of the local view in which the member appeared, 0 outside a View.
	Since uint64 `json:"-"`
}

// HasRole says whether the node has the role.
func (m Member) HasRole(role string) bool { return slices.Contains(m.Roles, role) }

// Ready returns a predicate for View.Owner: members that are ready and have the role.
func Ready(role string) func(Member) bool {
	return func(m Member) bool { return m.State == StateReady && m.HasRole(role) }
}

// label names the node in logs and errors.
func (m Member) label() string {
	return fmt.Sprintf("%s (%s, %s)", m.Name, m.ID, m.Addresses[AddressHello])
}

// same says whether two records tell the same, Since aside.
func (m Member) same(other Member) bool {
	return m.ID == other.ID && m.Instance == other.Instance && m.Name == other.Name &&
		m.Domain == other.Domain && m.SubDomain == other.SubDomain &&
		m.Version == other.Version && m.State == other.State &&
		m.Importing == other.Importing && m.Incarnation == other.Incarnation && slices.Equal(m.Roles, other.Roles) &&
		mapsEqual(m.Properties, other.Properties) && mapsEqual(m.Addresses, other.Addresses)
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

var (
	uuidPattern     = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	instancePattern = regexp.MustCompile(`^[0-9a-f]{16}$`)
	rolePattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9:_.-]*$`)
	domainPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// check refuses a record that another node should not believe.
func (m Member) check() error {
	if !uuidPattern.MatchString(m.ID) || !instancePattern.MatchString(m.Instance) {
		return fmt.Errorf("node id %.50q or instance %.50q is malformed", m.ID, m.Instance)
	}
	if !domainPattern.MatchString(m.Domain) {
		return fmt.Errorf("domain %.50q is not letters, digits, - _ and dots", m.Domain)
	}
	for _, text := range []string{m.Name, m.Domain, m.SubDomain, m.Version} {
		if err := checkText(text, maxNameSize); err != nil {
			return err
		}
	}
	switch m.State {
	case StateStarting, StateReady, StateDraining:
	default:
		return fmt.Errorf("state %.50q is unknown", m.State)
	}
	if m.Incarnation > maxCounter {
		return fmt.Errorf("incarnation %d is beyond all starts of a node", m.Incarnation)
	}
	if len(m.Roles) > maxRoles || len(m.Properties) > maxProperties || len(m.Addresses) > maxAddresses {
		return fmt.Errorf("more than %d roles, %d properties or %d addresses",
			maxRoles, maxProperties, maxAddresses)
	}
	return m.checkLists()
}

func (m Member) checkLists() error {
	for _, role := range m.Roles {
		if len(role) > maxNameSize || !rolePattern.MatchString(role) {
			return fmt.Errorf("role %.50q is not a lower-case word", role)
		}
	}
	for key, value := range m.Properties {
		if err := checkText(key, maxNameSize); err != nil {
			return err
		}
		if err := checkText(value, maxPropertySize); err != nil {
			return err
		}
	}
	for kind, address := range m.Addresses {
		if err := checkText(kind, maxNameSize); err != nil {
			return err
		}
		if err := checkText(address, maxNameSize); err != nil {
			return err
		}
	}
	if err := checkHostPort(m.Addresses[AddressHello]); err != nil {
		return err
	}
	if encoded, err := json.Marshal(m); err != nil || len(encoded) > maxMemberSize {
		return fmt.Errorf("record of more than %d bytes (%v)", maxMemberSize, err)
	}
	return nil
}

func checkText(text string, size int) error {
	if len(text) > size || !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
		return fmt.Errorf("text %.50q is over %d bytes or has control characters", text, size)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func checkHostPort(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || len(address) > maxNameSize {
		return fmt.Errorf("address %.50q is not host:port", address)
	}
	return nil
}

func sortMembers(members []Member) []Member {
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return members
}

// Stores returns how many of the members keep data.
func Stores(members []Member) int {
	count := 0
	for _, member := range members {
		if member.HasRole(RoleStore) {
			count++
		}
	}
	return count
}

func memberIDs(members []Member) []string {
	ids := make([]string, len(members))
	for i, member := range members {
		ids[i] = member.ID
	}
	return ids
}
