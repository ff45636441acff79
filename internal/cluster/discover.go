package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Pauses between rounds, and between two lines in the log about the wait.
const (
	roundPauseMin    = 50 * time.Millisecond
	roundPauseMax    = time.Second
	progressInterval = 3 * time.Second
)

// Decision is what Discover found.
type Decision struct {
	Kind    Kind   // how this node comes to its cluster
	Cluster string // id of the cluster
	Self    Member // this node's record
	// Members are all nodes of the cluster that the engine must have as routes, dead ones
	// and this one too, sorted by ID.
	Members []Member
	// Forgotten are the ids of nodes that were taken out for good, oldest first.
	Forgotten []string
	// Hello answers other nodes from now on. The caller gives the decision to Start and
	// closes Hello after the Membership is stopped.
	Hello *Hello
}

// Routes returns the route addresses of all other members with a store. The rest come by
// themselves, and for its first election the engine would wait for them.
func (d Decision) Routes() []string {
	var routes []string
	for _, member := range d.Members {
		if address := member.Addresses[AddressRoute]; member.HasRole(RoleStore) && member.ID != d.Self.ID && address != "" {
			routes = append(routes, address)
		}
	}
	return routes
}

// Discover listens on the cluster port and asks the seeds until there is a cluster to join or
// enough nodes to form one with, or most refuse this one (ErrRefused). It waits as long as ctx
// lets it and logs whom it waits for.
// Errors: ErrInvalidOptions, ErrNoPort, ErrDamaged, ErrIdentityInUse, ErrOtherCluster,
// ErrIncompatible, ErrForgotten, ErrBringsData, those of the disk, and that of ctx together
// with what stood in the way last, ErrSecret for one.
func Discover(ctx context.Context, options Options) (Decision, error) {
	options, err := options.withDefaults()
	if err != nil {
		return Decision{}, err
	}
	search, err := newSearch(options)
	if err != nil {
		return Decision{}, err
	}
	decision, err := search.run(ctx)
	if err != nil {
		search.hello.Close()
		return Decision{}, fmt.Errorf("discover cluster %q: %w", options.Domain, err)
	}
	return decision, nil
}

// search does the asking for a seeker.
type search struct {
	options Options
	seeds   []seed
	lookup  lookupFunc
	asker   asker
	hello   *Hello
	seeker  *seeker
	logger  *slog.Logger

	learned  []string        // addresses told by others or remembered, oldest first
	logged   map[string]bool // keys of problems that were logged
	failures map[string]error
	asked    map[string]bool // addresses asked in the last round
	told     string          // to Options.Waiting

	refusedSince time.Time // zero unless this node met refusals only
}

func newSearch(options Options) (*search, error) {
	seeds := make([]seed, 0, len(options.Seeds))
	for _, text := range options.Seeds {
		parsed, err := parseSeed(text, options.BindPort, options.PortTries)
		if err != nil {
			return nil, err
		}
		seeds = append(seeds, parsed)
	}
	id, err := loadIdentity(options.DataDir)
	if err != nil {
		return nil, err
	}
	disk, err := loadMemory(options.DataDir, options.Domain)
	if err != nil {
		return nil, err
	}
	disk.Boots++
	if err := saveMemory(options.DataDir, options.Domain, disk); err != nil {
		return nil, err
	}
	key, err := helloKey(options.Secret)
	if err != nil {
		return nil, err
	}
	hello, err := listenHello(options, key)
	if err != nil {
		return nil, err
	}
	self := selfRecord(options, id, disk.Boots, hello.port)
	if err := self.check(); err != nil {
		hello.Close()
		return nil, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	s := &search{
		options: options, seeds: seeds, hello: hello, logger: options.Logger,
		seeker: newSeeker(self, options.BootstrapExpect, disk),
		lookup: lookupHost,
		asker:  newAsker(options, key),
		logged: map[string]bool{}, failures: map[string]error{},
	}
	s.learn(disk.Members...)
	s.learn(disk.Vote...)
	return s, nil
}

func newAsker(options Options, key []byte) asker {
	var config *tls.Config
	if options.TLS != nil {
		config = options.TLS.Clone()
	}
	return asker{domain: options.Domain, key: key, tls: config, timeout: options.ProbeTimeout}
}

func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

func selfRecord(options Options, id string, boots uint64, port int) Member {
	host := options.AdvertisedHost()
	hello, route := port, port+1
	if options.AdvertisePort != 0 {
		hello = options.AdvertisePort
	}
	if options.AdvertiseRoutePort != 0 {
		route = options.AdvertiseRoutePort
	}
	addresses := map[string]string{}
	maps.Copy(addresses, options.Addresses)
	addresses[AddressHello] = net.JoinHostPort(host, strconv.Itoa(hello))
	addresses[AddressRoute] = net.JoinHostPort(host, strconv.Itoa(route))
	return Member{
		ID: id, Instance: newInstance(), Name: options.Name, Domain: options.Domain,
		SubDomain: options.SubDomain, Roles: options.Roles,
		Properties: maps.Clone(options.Properties), Addresses: addresses,
		Version: options.Version, Importing: options.Importing, State: StateStarting, Incarnation: boots << bootShift,
	}
}

// run asks round after round.
func (s *search) run(ctx context.Context) (Decision, error) {
	s.publish(phaseSeeking)
	s.hello.begin()
	self := s.seeker.self
	s.logger.Info("cluster discovery started", "node_id", self.ID, "domain", self.Domain,
		"address", self.Addresses[AddressHello], "cluster_id", s.seeker.disk.Cluster)
	pause, lastProgress := roundPauseMin, time.Now()
	for {
		before := s.fingerprint()
		verdict, err := s.round(ctx)
		if err != nil {
			return Decision{}, err
		}
		if verdict.decision != nil {
			return s.finish(*verdict.decision), nil
		}
		s.logProblems()
		s.tell()
		if pause = min(2*pause, roundPauseMax); s.fingerprint() != before {
			pause = roundPauseMin // something moves: the others see it soon
		}
		if time.Since(lastProgress) >= progressInterval {
			lastProgress = time.Now()
			s.logger.Info("waiting for the cluster", "domain", self.Domain,
				"waiting_for", s.seeker.waiting, "asked", len(s.asked), "unreachable", s.unreachable())
		}
		select {
		case <-ctx.Done():
			return Decision{}, s.giveUp(ctx)
		case <-s.hello.kick:
			pause = roundPauseMin
		case <-time.After(pause):
		}
	}
}

// fingerprint changes when this node's position or its peers do.
func (s *search) fingerprint() string {
	peers := slices.Sorted(maps.Keys(s.seeker.peers))
	return fmt.Sprint(s.seeker.disk.Round, memberIDs(s.seeker.disk.Vote), s.seeker.proposal, peers,
		len(s.learned))
}

// round asks every address once and steps the seeker.
func (s *search) round(ctx context.Context) (verdict, error) {
	failures := map[string]error{}
	targets, groups := s.targets(ctx, failures)
	answers := s.askAll(ctx, targets, failures)
	if ctx.Err() != nil {
		return verdict{}, s.giveUp(ctx) // half a round tells less than the one before
	}
	s.failures = failures
	for _, answer := range answers {
		s.learn(answer.Members...)
		s.learnAddresses(answer.Heard)
	}
	result, err := s.seeker.step(answers, func(address string) bool { return s.asked[address] })
	if err != nil {
		return verdict{}, err
	}
	if result.save {
		if err := saveMemory(s.options.DataDir, s.options.Domain, s.seeker.disk); err != nil {
			return verdict{}, err
		}
	}
	if result.decision == nil {
		s.publish(phaseSeeking)
		return result, s.refused(groups, answers)
	}
	return result, nil
}

// targets returns whom to ask in this round, and them and this node's own address by host.
func (s *search) targets(ctx context.Context, failures map[string]error) ([]string, [][]string) {
	set, groups := map[string]bool{}, [][]string{}
	add := func(addresses []string) {
		for _, address := range addresses {
			if len(set) < maxTargets {
				set[address] = true
			}
		}
	}
	s.learnAddresses(s.hello.heardOf())
	add(s.learned)
	lookupCtx, cancel := context.WithTimeout(ctx, s.options.ProbeTimeout)
	defer cancel()
	for _, seed := range s.seeds {
		addresses, err := seed.targets(lookupCtx, s.lookup)
		if err != nil {
			failures[seed.host] = err
			groups = append(groups, []string{seed.host})
		}
		add(addresses)
		groups = slices.AppendSeq(groups, slices.Chunk(addresses, len(seed.ports)))
	}
	for _, address := range s.learned {
		if !slices.ContainsFunc(groups, func(group []string) bool { return slices.Contains(group, address) }) {
			groups = append(groups, []string{address})
		}
	}
	own := s.seeker.self.Addresses[AddressHello]
	delete(set, own)
	s.asked = set
	targets := slices.Sorted(maps.Keys(set))
	s.asked[own] = true // nobody else can be there
	return targets, groups
}

// askAll asks all targets at once, within limits, and returns the answers.
func (s *search) askAll(ctx context.Context, targets []string, failures map[string]error) []statement {
	own := s.hello.current()
	slots := make(chan struct{}, maxProbesAtOnce)
	var mu sync.Mutex // guards answers and failures
	var answers []statement
	var tasks sync.WaitGroup
	for _, target := range targets {
		slots <- struct{}{}
		tasks.Go(func() {
			defer func() { <-slots }()
			answer, err := s.asker.ask(ctx, target, own)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[target] = err
				return
			}
			answers = append(answers, answer)
		})
	}
	tasks.Wait()
	return answers
}

func (s *search) learn(members ...Member) {
	for _, member := range members {
		s.learnAddresses([]string{member.Addresses[AddressHello]})
	}
}

func (s *search) learnAddresses(addresses []string) {
	for _, address := range addresses {
		if slices.Contains(s.learned, address) {
			continue
		}
		if len(s.learned) == 2*maxLearned {
			s.learned = slices.Delete(s.learned, 0, 1)
		}
		s.learned = append(s.learned, address)
	}
}

// publish has the hello service tell the seeker's position.
func (s *search) publish(phase phase) {
	told := s.seeker.statement()
	told.Phase = phase
	s.hello.state(func(current *statement) { *current = told })
}

func (s *search) finish(decision Decision) Decision {
	s.publish(phaseFormed)
	s.logger.Info("cluster found", "decision", string(decision.Kind), "cluster_id", decision.Cluster,
		"node_id", decision.Self.ID, "members", len(decision.Members))
	decision.Hello = s.hello
	return decision
}

// tell says what the node waits for, and what a person should look at.
func (s *search) tell() {
	text := "waiting for " + s.seeker.waiting
	for _, problem := range s.seeker.problems {
		text += "; " + problem.text
	}
	if text != s.told {
		s.told = text
		s.options.Waiting(text)
	}
}

// logProblems logs what a person should look at, each thing once.
func (s *search) logProblems() {
	for _, problem := range s.seeker.problems {
		s.logOnce(problem.key, slog.LevelError, problem.text)
	}
	for address, err := range s.failures {
		switch {
		case errors.Is(err, ErrSecret):
			s.logOnce("secret "+address, slog.LevelError, advice(address, err))
		case errors.Is(err, ErrCertificate):
			s.logOnce("certificate "+address, slog.LevelError, advice(address, err))
		case errors.Is(err, errOtherDomain), errors.Is(err, errProtocol):
			s.logOnce("other "+address, slog.LevelWarn, advice(address, err))
		case !silent(err):
			s.logOnce("failure "+address, slog.LevelWarn, err.Error())
		}
	}
}

func (s *search) logOnce(key string, level slog.Level, text string) {
	if s.logged[key] || len(s.logged) >= maxTargets {
		return
	}
	s.logged[key] = true
	s.logger.Log(context.Background(), level, "cluster discovery: "+text, "domain", s.options.Domain)
}

// silent says whether nobody answered, which is usual in a search.
func silent(err error) bool {
	var dialing *net.OpError
	var lookup *net.DNSError
	return errors.As(err, &dialing) && dialing.Op == "dial" || errors.As(err, &lookup) ||
		errors.Is(err, context.Canceled) || timedOut(err)
}

// advice says in a sentence what a failure means and what to do.
func advice(address string, err error) string {
	at := strings.TrimSpace(address + " ")
	switch {
	case errors.Is(err, ErrSecret):
		return at + " is of this domain but has another secret; set the same cluster.secret on every node"
	case errors.Is(err, ErrCertificate):
		return at + " " + certificateAdvice(err) + " (" + err.Error() + ")"
	case errors.Is(err, errOtherDomain):
		return at + " is ignored, as it is of another domain; set the same cluster.domain on both if they " +
			"belong together (" + err.Error() + ")"
	case errors.Is(err, errProtocol):
		return at + " does not speak this hello protocol; correct cluster.seeds if it is no cluster port, " +
			"or see that cluster TLS and the program's version are the same there (" + err.Error() + ")"
	}
	return err.Error()
}

// unreachable lists a few addresses that did not answer, for the log.
func (s *search) unreachable() string {
	addresses := slices.Sorted(maps.Keys(s.failures))
	if len(addresses) > 10 {
		addresses = append(addresses[:10], fmt.Sprintf("and %d more", len(s.failures)-10))
	}
	return strings.Join(addresses, ", ")
}

// giveUp is the error of a search that ctx ended: what stood in the way comes with it.
func (s *search) giveUp(ctx context.Context) error {
	errs := []error{ctx.Err()}
	if s.seeker.waiting != "" {
		errs = append(errs, errors.New("still waiting for "+s.seeker.waiting))
	}
	for _, address := range slices.Sorted(maps.Keys(s.failures)) {
		if err := s.failures[address]; errors.Is(err, ErrSecret) {
			errs = append(errs, fmt.Errorf("%w: %s", ErrSecret, advice(address, err)))
		}
	}
	for _, problem := range s.seeker.problems {
		errs = append(errs, errors.New(problem.text))
	}
	return errors.Join(errs...)
}
