package api

import (
	"net/http"
	"net/netip"
	"strings"
)

// Address is whom a rate limit counts.
type Address = netip.Addr

// ClientAddress finds the address of a client behind trusted proxies.
type ClientAddress struct {
	Trusted []netip.Prefix // proxies whose X-Forwarded-For is believed
	Hops    int            // when positive: behind a trusted proxy, the client is that many entries from the right
}

// Of returns the client's address. An invalid address stands for all clients without one,
// as behind a unix socket.
func (c ClientAddress) Of(r *http.Request) Address {
	peer := peerAddress(r.RemoteAddr)
	forwarded := forwardedFor(r.Header)
	if c.Hops > 0 && c.trusts(peer) {
		if i := len(forwarded) - c.Hops; i >= 0 && forwarded[i].IsValid() {
			return forwarded[i]
		}
		return peer
	}
	for i := len(forwarded) - 1; i >= 0 && c.trusts(peer); i-- {
		if !forwarded[i].IsValid() {
			break // a garbled list ends at the last address that a trusted proxy wrote
		}
		peer = forwarded[i]
	}
	return peer
}

// Trusts tells whether a peer, "address:port", is a trusted proxy.
func (c ClientAddress) Trusts(remote string) bool { return c.trusts(peerAddress(remote)) }

func (c ClientAddress) trusts(peer Address) bool {
	if !peer.IsValid() {
		return len(c.Trusted) > 0 // a unix socket: the proxy is on this machine
	}
	for _, prefix := range c.Trusted {
		if prefix.Contains(peer) {
			return true
		}
	}
	return false
}

func peerAddress(remote string) Address {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return Address{}
	}
	return ap.Addr().Unmap()
}

// maxForwarded bounds how many entries of X-Forwarded-For are read, from the right.
const maxForwarded = 32

func forwardedFor(header http.Header) []Address {
	parts := strings.Split(strings.Join(header.Values("X-Forwarded-For"), ","), ",")
	if len(parts) > maxForwarded {
		parts = parts[len(parts)-maxForwarded:]
	}
	list := make([]Address, 0, len(parts))
	for _, part := range parts {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		addr, err := netip.ParseAddr(part)
		if err != nil {
			addr = peerAddress(part) // some proxies add the port
		}
		list = append(list, addr.Unmap())
	}
	return list
}

// subscriberBits is the part of an IPv6 address that one customer of a network has to
// itself; limits count it as one, since its owner can use every address in it.
const subscriberBits = 64

// subscriber returns what a rate limit counts an address as.
func subscriber(a Address) Address {
	if !a.Is6() {
		return a
	}
	network, err := a.WithZone("").Prefix(subscriberBits)
	if err != nil {
		return a
	}
	return network.Addr()
}
