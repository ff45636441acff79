package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

// refusalPatience is how long a node goes on asking when more of those it asks refuse it than
// are silent, and nobody takes it: somebody may be about to change the others' configuration.
const refusalPatience = 5 * time.Second

// warnInterval is between two lines in the log about the refusals of one host.
const warnInterval = time.Minute

// lingerTimeout is how long a refused connection is read on, so that its other side gets to
// read why: a connection that is closed with unread bytes is reset.
const lingerTimeout = 500 * time.Millisecond

// isRefusal says whether a node answered that will not have this one as it is.
func isRefusal(err error) bool {
	return errors.Is(err, ErrSecret) || errors.Is(err, ErrCertificate) || errors.Is(err, errOtherDomain)
}

// ballot counts what those who are asked say to this node, one vote for each host of a seed
// and each address learned.
type ballot struct{ refusing, silent int }

// count takes the targets of one host. Where the own address is among them, the host is
// neither silent nor, if nodes of another domain run there too, refusing. A node that shares
// its machine, as it found its port taken, expects nodes of other domains everywhere: there
// too, its own peers will have to move on.
func (b *ballot) count(targets []string, own string, shares bool, failures map[string]error) {
	here := slices.Contains(targets, own)
	refused := slices.ContainsFunc(targets, func(target string) bool {
		err := failures[target]
		return isRefusal(err) && !((here || shares) && errors.Is(err, errOtherDomain))
	})
	switch {
	case refused:
		b.refusing++
	case here:
	default:
		b.silent++
	}
}

// refused returns the error that ends a search which only meets refusals, nil before the
// patience is over. The groups are the targets of this round, by host.
func (s *search) refused(groups [][]string, answers []statement) error {
	self := s.seeker.self
	answered := slices.ContainsFunc(answers, func(a statement) bool { return a.Self.ID != self.ID })
	var votes ballot
	for _, group := range groups {
		votes.count(group, self.Addresses[AddressHello], s.hello.port != s.options.BindPort, s.failures)
	}
	if answered || votes.refusing <= votes.silent {
		s.refusedSince = time.Time{}
		return nil
	}
	if s.refusedSince.IsZero() {
		s.refusedSince = time.Now()
	}
	if time.Since(s.refusedSince) < refusalPatience {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrRefused, s.refusals())
}

// refusals joins what refused this node in the last round, each kind once.
func (s *search) refusals() error {
	var errs []error
	seen := map[string]bool{}
	for _, address := range slices.Sorted(maps.Keys(s.failures)) {
		err := s.failures[address]
		text := advice(address, err)
		if kind := strings.ReplaceAll(text, address, ""); !isRefusal(err) || seen[kind] {
			continue
		} else {
			seen[kind] = true
		}
		switch {
		case errors.Is(err, ErrSecret):
			errs = append(errs, fmt.Errorf("%w: %s", ErrSecret, text))
		case errors.Is(err, ErrCertificate):
			errs = append(errs, fmt.Errorf("%w: %s", ErrCertificate, text))
		default:
			errs = append(errs, errors.New(text))
		}
	}
	return errors.Join(errs...)
}

// tlsAlert is a TLS record with the fatal alert protocol_version (RFC 8446, 6.2).
var tlsAlert = []byte{0x15, 3, 1, 0, 2, 2, 70}

// tellTLS tells an asker that speaks TLS and one that does not that the other is spoken here.
func tellTLS(conn net.Conn) {
	_, _ = conn.Write(tlsAlert) // the connection ends in any case
}

// handshake does the TLS handshake of a connection that was accepted. A connection that ends
// before it began is a look whether somebody is there, and its error io.EOF.
func handshake(conn net.Conn) error {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) {
			tellTLS(secure.NetConn())
		}
		linger(secure.NetConn())
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return nil
}

// linger reads what still comes, for a moment.
func linger(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_ = conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, maxQuestionSize)) // nobody wants to know
}

// overTLS turns an error of a connection over TLS, before the first answer, into ErrCertificate
// unless it is of the network.
func overTLS(err error) error {
	var network *net.OpError
	switch {
	case err == nil, timedOut(err), errors.Is(err, context.Canceled), errors.Is(err, errFrame), errors.Is(err, io.EOF):
		return err
	case errors.As(err, &network) && network.Op != "remote error": // an alert is no error of the network
		return err
	}
	return fmt.Errorf("%w: %w", ErrCertificate, err)
}

const setCertificates = "set cluster.cert_file, cluster.key_file and cluster.ca_file"

// certificateAdvice says what a failed handshake means. Only the alerts of the other side have
// no type of their own.
func certificateAdvice(err error) string {
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var record tls.RecordHeaderError
	text := err.Error()
	says := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case errors.As(err, &authority):
		return "shows a certificate of another authority; have the certificates of all nodes signed by one, " +
			"the one in cluster.ca_file"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "shows a certificate that has expired or is not valid yet; make a new one for its " +
			"cluster.cert_file, and see that its clock is right"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "shows a certificate of the wrong kind; make one that is good for a server and for a client"
	case errors.As(err, &name):
		return "shows a certificate for other names; it must be for the address or name that the node is " +
			"asked at: cluster.seeds, cluster.advertise_host"
	case says("didn't provide a certificate"):
		return "shows no certificate; " + setCertificates + " there"
	case says("remote error: tls: expired certificate"):
		return "refuses this node's certificate, which has expired or is not valid yet; make a new one for " +
			"cluster.cert_file, and see that the clocks are right"
	case says("remote error: tls: unknown certificate authority"):
		return "does not know the authority of this node's certificate; have it signed by that of the " +
			"cluster, cluster.ca_file"
	case says("remote error: tls: certificate required"):
		return "wants a certificate; " + setCertificates
	case says("remote error: tls: bad certificate"):
		return "does not trust this node's certificate; have the certificates of all nodes signed by one " +
			"authority, the one in cluster.ca_file, each for the address that the node is asked at"
	case errors.As(err, &record), errors.Is(err, errSpeaksTLS),
		says("remote error: tls: protocol version not supported"):
		return "and this node do not agree whether TLS is spoken between nodes; " + setCertificates +
			" on every node, or on none"
	}
	return "did not finish the TLS handshake; see cluster.cert_file, cluster.key_file and cluster.ca_file " +
		"there and here"
}

// knock logs an asker that has the secret and must not become a member: one with this node's
// id, or of another version.
func (h *Hello) knock(host string, peer statement) {
	h.mu.Lock()
	self := h.statement.Self
	h.mu.Unlock()
	switch {
	case peer.Self.ID == self.ID && peer.Self.Instance != self.Instance:
		h.warn(host, fmt.Errorf("%w: %s has the id of this node, its data directory is a copy of this "+
			"node's; remove node.id, cluster.json and the engine's files there", ErrIdentityInUse, peer.Self.label()))
	case !peer.compatible():
		h.warn(host, fmt.Errorf("%w: %s", ErrIncompatible, versionAdvice(peer)))
	}
}

// versionAdvice says that the speaker shares no version with this program.
func versionAdvice(peer statement) string {
	return fmt.Sprintf("%s speaks cluster versions %d to %d and this node %d to %d; install a program "+
		"version on one of them that overlaps with the other",
		peer.Self.label(), peer.Oldest, peer.Newest, versionOldest, versionNewest)
}

// warn logs the refusal of a host, each kind once in warnInterval.
func (h *Hello) warn(host string, err error) {
	text, now := advice(host, err), time.Now()
	kind, _, _ := strings.Cut(text, " (") // details may differ each time
	h.mu.Lock()
	last, known := h.warned[kind]
	if len(h.warned) >= maxLearned {
		maps.DeleteFunc(h.warned, func(_ string, at time.Time) bool { return now.Sub(at) >= warnInterval })
	}
	quiet := known && now.Sub(last) < warnInterval || len(h.warned) >= maxLearned
	if !quiet {
		h.warned[kind] = now
	}
	h.mu.Unlock()
	if quiet {
		return
	}
	h.logger.LogAttrs(context.Background(), slog.LevelWarn, "cluster hello refused",
		slog.String("remote", host), slog.String("domain", h.domain), slog.String("error", text))
}
