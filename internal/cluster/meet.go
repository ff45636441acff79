package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Meet is Discover for nodes that share a bus: nobody is asked, no cluster port is opened, and the
// others are heard as soon as the Membership has started. Options.OverBus must be set. Who may use
// the bus decides who belongs, so there is no secret; domains keep apart.
//
// Errors: ErrInvalidOptions, ErrDamaged, those of the disk.
func Meet(options Options) (Decision, error) {
	options, err := options.withDefaults()
	if err != nil {
		return Decision{}, err
	}
	if err := os.MkdirAll(options.DataDir, 0o700); err != nil {
		return Decision{}, fmt.Errorf("create the directory of the node's identity: %w", err)
	}
	id, err := loadIdentity(options.DataDir)
	if err != nil {
		return Decision{}, err
	}
	disk, err := loadMemory(options.DataDir, options.Domain)
	if err != nil {
		return Decision{}, err
	}
	disk.Boots++
	if err := saveMemory(options.DataDir, options.Domain, disk); err != nil {
		return Decision{}, err
	}
	self := selfRecord(options, id, disk.Boots, 0)
	// What others ask when it is silent is the port that serves clients: it has no other.
	self.Addresses[AddressHello] = net.JoinHostPort(options.AdvertisedHost(), clientsPort(options))
	delete(self.Addresses, AddressRoute)
	if err := self.check(); err != nil {
		return Decision{}, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	return Decision{Kind: Met, Self: self, Members: []Member{self}}, nil
}

// clientsPort is the port of Addresses under which clients are served.
func clientsPort(options Options) string {
	_, port, err := net.SplitHostPort(options.Addresses[AddressChannels])
	if err != nil {
		return strconv.Itoa(DefaultPort)
	}
	return port
}

// silentAfter is how many heartbeats have to be missing until a node that was met over a bus is
// asked whether it is there: no connection ends when it dies.
const silentAfter = 1.5

// askSilent has those who are silent asked at their port, if the bus alone joins the nodes.
func (m *Membership) askSilent() {
	if !m.options.OverBus {
		return
	}
	late := m.now() - time.Duration(silentAfter*float64(m.options.HeartbeatInterval))
	for id, peer := range m.table.peers {
		if !peer.out && peer.heardAt < late {
			m.PeerLost(id)
		}
	}
}

// refusalVerifier says that a process has ended when nobody listens at its port any more.
func refusalVerifier(timeout time.Duration) verifyFunc {
	return func(ctx context.Context, member Member) bool {
		dialer := net.Dialer{Timeout: timeout}
		conn, err := dialer.DialContext(ctx, "tcp", member.Addresses[AddressHello])
		if err != nil {
			return refused(err)
		}
		_ = conn.Close() // it was only to see
		return false
	}
}
