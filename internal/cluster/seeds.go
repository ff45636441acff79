package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// portsPerNode is the distance between the hello ports of two nodes on one machine: each
// takes one for hello and the next for the engine's routes.
const portsPerNode = 2

// seed is one entry of Options.Seeds: a host with its ports, or a range of addresses.
type seed struct {
	host  string       // name or address, empty in a range
	addrs []netip.Addr // of a range
	ports []int
}

// CheckSeeds returns an error that names each of the seeds that cannot be looked for.
func CheckSeeds(seeds []string) error {
	var errs []error
	for _, text := range seeds {
		if _, err := parseSeed(text, DefaultPort, 1); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// parseSeed reads one entry. Without a port it gets defaultPort. A host is asked on portTries
// ports, because a node there may have moved on to the next free one; a range on one port:
// who was moved on is learned from the neighbour that has the first.
func parseSeed(text string, defaultPort, portTries int) (seed, error) {
	host, port, err := splitSeed(text, defaultPort)
	if err != nil {
		return seed{}, fmt.Errorf("%w: cluster.seeds: %w", ErrInvalidOptions, err)
	}
	addrs, isRange, err := parseRange(host)
	if err != nil {
		return seed{}, fmt.Errorf("%w: cluster.seeds: %q: %w", ErrInvalidOptions, text, err)
	}
	if isRange {
		return seed{addrs: addrs, ports: []int{port}}, nil
	}
	result := seed{host: host}
	for i := range portTries {
		if next := port + i*portsPerNode; next <= 65535 {
			result.ports = append(result.ports, next)
		}
	}
	return result, nil
}

func splitSeed(text string, defaultPort int) (string, int, error) {
	text = strings.TrimSpace(text)
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return addr.String(), defaultPort, nil
	}
	host, portText, found := text, "", false
	if strings.Contains(text, ":") {
		var err error
		if host, portText, err = net.SplitHostPort(text); err != nil {
			return "", 0, fmt.Errorf("%q is not host, host:port, a.b.c.d-e or a.b.c.*", text)
		}
		found = true
	}
	if host == "" || len(host) > maxNameSize || strings.ContainsAny(host, " /\t\r\n") {
		return "", 0, fmt.Errorf("%q has no valid host", text)
	}
	if !found {
		return host, defaultPort, nil
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("%q has no port from 1 to 65535", text)
	}
	return host, port, nil
}

// parseRange reads a.b.c.d-e and a.b.c.*; other hosts are no range.
func parseRange(host string) ([]netip.Addr, bool, error) {
	dot := strings.LastIndexByte(host, '.')
	if dot < 0 {
		return nil, false, nil
	}
	network, last := host[:dot], host[dot+1:]
	base, err := netip.ParseAddr(network + ".0")
	if err != nil || !base.Is4() {
		if strings.Contains(host, "*") {
			return nil, false, fmt.Errorf("only the last part of an IPv4 address may be *")
		}
		return nil, false, nil // a name, which may well have a - in it
	}
	from, to := 1, 254
	if last != "*" {
		low, high, found := strings.Cut(last, "-")
		if !found {
			return nil, false, nil
		}
		var errLow, errHigh error
		from, errLow = strconv.Atoi(low)
		to, errHigh = strconv.Atoi(high)
		if errLow != nil || errHigh != nil || from < 0 || to > 255 || from > to {
			return nil, false, fmt.Errorf("the range must be from a smaller to a larger number, 0 to 255")
		}
	}
	octets := base.As4()
	addrs := make([]netip.Addr, 0, to-from+1)
	for last := from; last <= to; last++ {
		octets[3] = byte(last)
		addrs = append(addrs, netip.AddrFrom4(octets))
	}
	return addrs, true, nil
}

// lookupFunc finds all addresses of a name.
type lookupFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// targets returns every host:port to ask. Names are looked up each time: they change.
func (s seed) targets(ctx context.Context, lookup lookupFunc) ([]string, error) {
	addrs := s.addrs
	if s.host != "" {
		if addr, err := netip.ParseAddr(s.host); err == nil {
			addrs = []netip.Addr{addr}
		} else if addrs, err = lookup(ctx, s.host); err != nil {
			return nil, fmt.Errorf("look up seed %q: %w", s.host, err)
		}
	}
	targets := make([]string, 0, len(addrs)*len(s.ports))
	for _, addr := range addrs {
		for _, port := range s.ports {
			targets = append(targets, netip.AddrPortFrom(addr.Unmap(), uint16(port)).String())
		}
	}
	return targets, nil
}
