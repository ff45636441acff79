package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// discoverAll runs Discover for all options at once and fails if one of them does.
func discoverAll(t *testing.T, all ...Options) []Decision {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	decisions, errs := make([]Decision, len(all)), make([]error, len(all))
	var tasks sync.WaitGroup
	for i, options := range all {
		tasks.Go(func() { decisions[i], errs[i] = Discover(ctx, options) })
	}
	tasks.Wait()
	for i, decision := range decisions {
		if errs[i] != nil {
			t.Fatalf("node %d: %v", i, errs[i])
		}
		t.Cleanup(decision.Hello.Close)
	}
	return decisions
}

// onePort gives nodes on one machine the same port and seed: they make room for each other.
func onePort(t *testing.T, count int) []Options {
	port, all := nextPort(), make([]Options, count)
	for i := range all {
		all[i] = testOptions(t)
		all[i].BindPort, all[i].BootstrapExpect = port, count
		all[i].Seeds, all[i].Name = []string{"127.0.0.1"}, fmt.Sprint("n", i)
	}
	return all
}

func checkTogether(t *testing.T, decisions []Decision, kind Kind, members int) {
	t.Helper()
	for i, decision := range decisions {
		if decision.Kind != kind || decision.Cluster != decisions[0].Cluster ||
			len(decision.Members) != members || len(decision.Routes()) != members-1 {
			t.Errorf("node %d decided %s of %s with %d members, want %s of %s with %d", i, decision.Kind,
				decision.Cluster, len(decision.Members), kind, decisions[0].Cluster, members)
		}
	}
}

func TestDiscoverFormsJoinsAndReforms(t *testing.T) {
	all := onePort(t, 3)
	decisions := discoverAll(t, all...)
	checkTogether(t, decisions, Form, 3)

	gateway := testOptions(t)
	gateway.BindPort, gateway.Roles = all[0].BindPort, []string{RoleGateway}
	gateway.Seeds = []string{decisions[2].Self.Addresses[AddressHello]} // one that knows the rest
	checkTogether(t, discoverAll(t, gateway), Join, 4)

	// One restarts: it finds the others without a seed.
	decisions[1].Hello.Close()
	restarted := all[1]
	restarted.Seeds = nil
	again := discoverAll(t, restarted)
	checkTogether(t, again, Join, 3)
	if again[0].Self.ID != decisions[1].Self.ID || again[0].Self.Incarnation <= decisions[1].Self.Incarnation {
		t.Errorf("after the restart the node is %+v", again[0].Self)
	}

	// All restart, one stays away.
	for _, decision := range append(decisions, again...) {
		decision.Hello.Close()
	}
	all[0].Seeds, all[2].Seeds = nil, nil
	both := discoverAll(t, all[0], all[2])
	reformed := 0
	for i, decision := range both { // the second may find the first running already
		if decision.Kind == Reform {
			reformed++
		}
		if decision.Kind == Form || decision.Cluster != decisions[0].Cluster || len(decision.Members) < 3 {
			t.Errorf("after the restart of all node %d decided %s of %s, %d members",
				i, decision.Kind, decision.Cluster, len(decision.Members))
		}
	}
	if reformed == 0 {
		t.Error("nobody reformed the cluster")
	}
}

// The usual case of several hosts: the same port everywhere.
func TestDiscoverOnHostsWithTheSamePort(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs several loopback addresses")
	}
	port := nextPort()
	var all []Options
	for i := range 3 {
		options := testOptions(t)
		options.BindHost, options.BindPort, options.PortTries = fmt.Sprint("127.0.0.", 5+i), port, 1
		options.Seeds, options.BootstrapExpect = []string{"127.0.0.5-9"}, 3
		all = append(all, options)
	}
	decisions := discoverAll(t, all...)
	checkTogether(t, decisions, Form, 3)
	for _, decision := range decisions {
		if !strings.HasSuffix(decision.Self.Addresses[AddressHello], fmt.Sprint(":", port)) {
			t.Errorf("address is %s", decision.Self.Addresses[AddressHello])
		}
	}
}

func TestDiscoverFollowsChains(t *testing.T) {
	all := onePort(t, 3)
	for i := range all { // each knows the next one only, none is told of all
		all[i].BindPort, all[i].PortTries = all[0].BindPort+10*i, 1
	}
	for i := range all {
		all[i].Seeds = nil
		if i > 0 {
			all[i].Seeds = []string{fmt.Sprint("127.0.0.1:", all[i-1].BindPort)}
		}
	}
	checkTogether(t, discoverAll(t, all...), Form, 3)
}

func TestDiscoverLooksUpAllAddresses(t *testing.T) {
	all := onePort(t, 2)
	all[0].BindHost = "127.0.0.1"
	first := discoverAllAsync(t, all[0])
	options, err := all[1].withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	options.Seeds = []string{"nodes.example:" + fmt.Sprint(all[0].BindPort)}
	s, err := newSearch(options)
	if err != nil {
		t.Fatal(err)
	}
	defer s.hello.Close()
	s.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.99"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.run(ctx); err != nil {
		t.Fatal(err)
	}
	first()
}

// discoverAllAsync starts Discover and returns what waits for it.
func discoverAllAsync(t *testing.T, options Options) (wait func()) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan error, 1)
	go func() {
		decision, err := Discover(ctx, options)
		if err == nil {
			t.Cleanup(decision.Hello.Close)
		}
		done <- err
	}()
	return func() {
		t.Helper()
		defer cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDiscoverRefusesACopiedIdentity(t *testing.T) {
	all := onePort(t, 3)
	all[0].BootstrapExpect, all[1].BootstrapExpect = 2, 2
	decisions := discoverAll(t, all[0], all[1])
	id, err := os.ReadFile(filepath.Join(all[1].DataDir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(all[2].DataDir, identityFile), id, 0o600); err != nil {
		t.Fatal(err)
	}
	all[2].PortTries = 10
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = Discover(ctx, all[2])
	other := decisions[1].Self.Addresses[AddressHello]
	if !errors.Is(err, ErrIdentityInUse) || !strings.Contains(err.Error(), other) {
		t.Errorf("error is %v", err)
	}
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu     sync.Mutex
	text   bytes.Buffer
	awaits []string
	then   func() // called when all of awaits are in the log
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.text.Write(p)
	for _, text := range b.awaits {
		if !strings.Contains(b.text.String(), text) {
			return n, err
		}
	}
	b.then()
	return n, err
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestDiscoverSaysWhatStandsInTheWay(t *testing.T) {
	_, stranger := serveHello(t, func() Options {
		options := testOptions(t)
		options.Domain = "elsewhere"
		return options
	}(), seeking(1))
	other := testOptions(t)
	other.Secret = strings.Repeat("x", 32)
	_, refusing := serveHello(t, other, seeking(2))
	options := testOptions(t)
	options.BootstrapExpect, options.PortTries = 3, 1
	options.Seeds = []string{stranger, refusing}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	wants := []string{"set the same cluster.secret", refusing, stranger + " is ignored"}
	log := &logBuffer{awaits: append(wants, "waiting for the cluster"), then: cancel}
	options.Logger = slog.New(slog.NewTextHandler(log, nil))
	_, err := Discover(ctx, options)
	if !errors.Is(err, ErrSecret) || !errors.Is(err, context.Canceled) ||
		!strings.Contains(err.Error(), "1 are here") {
		t.Errorf("error is %v", err)
	}
	text := log.String()
	for _, want := range []string{wants[0], wants[2]} { // many rounds, one line each
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is %d times in the log:\n%s", want, strings.Count(text, want), text)
		}
	}
	if strings.Contains(text, testSecret) || strings.Contains(err.Error(), testSecret) {
		t.Error("the secret is in the log")
	}
}

func TestPortsAreTakenInPairs(t *testing.T) {
	options := testOptions(t)
	taken, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", options.BindPort+1))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	hello, _ := serveHello(t, options, seeking(1))
	if hello.port != options.BindPort+2 || hello.RoutePort() != options.BindPort+3 {
		t.Errorf("ports are %d and %d", hello.port, hello.RoutePort())
	}
	route := fmt.Sprint("127.0.0.1:", hello.RoutePort())
	if early, err := net.Listen("tcp", route); err == nil {
		early.Close()
		t.Error("the route port is not held")
	}
	hello.ReleaseRoutePort()
	hello.ReleaseRoutePort()
	engine, err := net.Listen("tcp", route)
	if err != nil {
		t.Fatalf("the route port is not let go: %v", err)
	}
	engine.Close()
	options.PortTries = 1
	if _, err := Discover(t.Context(), options); !errors.Is(err, ErrNoPort) {
		t.Errorf("error is %v, want ErrNoPort", err)
	}
}

func TestInvalidOptions(t *testing.T) {
	tests := map[string]func(*Options){
		"no directory":      func(o *Options) { o.DataDir = "" },
		"short secret":      func(o *Options) { o.Secret = "short" },
		"domain":            func(o *Options) { o.Domain = "a b" },
		"one node":          func(o *Options) { o.BootstrapExpect = 1 },
		"seed":              func(o *Options) { o.Seeds = []string{"a:b:c"} },
		"port":              func(o *Options) { o.BindPort = 65535 },
		"timeout":           func(o *Options) { o.NodeTimeout = time.Second },
		"role":              func(o *Options) { o.Roles = []string{"Store"} },
		"advertise":         func(o *Options) { o.AdvertisePort = -1 },
		"too long property": func(o *Options) { o.Properties = map[string]string{"a": strings.Repeat("a", 2000)} },
	}
	for name, change := range tests {
		options := testOptions(t)
		change(&options)
		if _, err := Discover(t.Context(), options); !errors.Is(err, ErrInvalidOptions) {
			t.Errorf("%s: %v, want ErrInvalidOptions", name, err)
		}
	}
}

// From the first hello to the death of a process, with real sockets.
func TestDiscoverThenMembership(t *testing.T) {
	all := onePort(t, 3)
	network := newNetwork()
	decisions := discoverAll(t, all...)
	var members []*Membership
	for i, decision := range decisions {
		options := all[i]
		options.HeartbeatInterval, options.NodeTimeout = 100*time.Millisecond, time.Minute
		options.ProbeTimeout = 20 * time.Second // a member that is slow to answer is not to be dead
		self := decision.Self
		m, err := Start(options, decision, port{network, self.ID, self.Instance})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Stop)
		members = append(members, m)
	}
	await(t, members[0], 3)
	await(t, members[2], 3)
	members[1].SetState(StateReady)
	members[1].Stop()
	decisions[1].Hello.Close() // the process is gone, long before the timeout
	for _, m := range []*Membership{members[0], members[2]} {
		m.PeerLost(decisions[1].Self.ID)
		await(t, m, 2)
	}
	newcomer := testOptions(t)
	newcomer.Seeds = []string{decisions[0].Self.Addresses[AddressHello]}
	joined := discoverAll(t, newcomer)[0]
	if joined.Kind != Join || len(joined.Routes()) != 3 {
		t.Errorf("newcomer: %s with routes %v, want those of the dead member too", joined.Kind, joined.Routes())
	}
}

// await waits until the view has that many members.
func await(t *testing.T, m *Membership, count int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for subscription := m.Subscribe(); ; {
		change, err := subscription.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for %d members, %d are there: %v", count, len(m.View().Members), err)
		}
		if len(change.View.Members) == count {
			return
		}
	}
}
