//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What is to be reached.
const (
	leaveLimit = 2 * time.Second         // until a killed node's members have left
	writeLimit = 2500 * time.Millisecond // until an app can be created again
	knownLimit = 4 * time.Second         // until another node knows it
	gapLimit   = time.Second             // until a client whose node is stopped has another one
)

// strict tells that a test fails when that is missed at all. It is for a machine that does nothing else.
var strict = os.Getenv("PARLEY_FAULTS_STRICT") == "1"

// slack is by how much it may be missed otherwise: a machine with five times more to do than it can
// takes that long, and a fault that nobody notices but by its timeout takes longer.
var slack = map[bool]time.Duration{false: 5, true: 1}[strict]

// settleLimit is how long is waited until all nodes tell the same. It is no measure of
// anything: the figures are.
const settleLimit = patience

// TestKill kills every node in turn under traffic.
func TestKill(t *testing.T) {
	t.Parallel()
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL})
	figure(t, "three new nodes ready", c.startAll())
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	tr := startTraffic(t, c)
	var excuses []excuse
	for _, victim := range c.nodes {
		excuses = append(excuses, p.crash(victim, hooks))
		p.comeBack(victim, hooks)
	}
	tr.check(append(p.clients, p.past...), excuses...)
	figure(t, "publishes acknowledged", tr.total())
	figure(t, "longest publish through a living node", tr.longest)
}

// crash kills a node and checks what the others make of it. It returns when events of the
// dead may be lost: those of its last moment that it had acknowledged.
func (p *population) crash(victim *node, hooks *receiver) excuse {
	p.t.Helper()
	survivors := p.cluster.except(victim)
	kept, connections := p.keepCached(victim), p.quota(victim)
	p.lose(victim)
	before, webhooks := p.mark(), hooks.mark()
	victim.kill()
	at := time.Now()
	appID := fmt.Sprintf("after-%s-%d", victim.name, at.UnixNano())
	tried, waited, unready := make(chan written, 1), make(chan written, 1), make(chan time.Duration, 1)
	go func() { unready <- lastUnready(at, survivors) }()
	go func() { tried <- p.createApp(at, time.Second, survivors[0], survivors[1], appID+"-tries") }()
	go func() { waited <- p.createApp(at, patience, survivors[1], survivors[0], appID+"-waits") }()
	last := p.moved(before, settleLimit, p.clients, p.lostWith(victim), false)
	figure(p.t, victim.name+" killed, last member_removed heard", last.Sub(at))
	if last.Sub(at) > slack*leaveLimit {
		p.t.Errorf("members of %s leave after %v", victim.name, last.Sub(at))
	}
	p.watched(before, settleLimit, p.clients, p.lostWith(victim), false)
	p.settle(settleLimit, survivors...)
	figure(p.t, victim.name+" killed, counts exact on the survivors", time.Since(at))
	hooks.exactly("after the death of "+victim.name, webhooks, settleLimit, whenMoved(victim, false)...)
	p.checkWritten(victim.name+" killed, app created by tries of 1s", <-tried)
	p.checkWritten(victim.name+" killed, app created by one request", <-waited)
	if last := <-unready; last > 0 {
		p.t.Errorf("%v after the death of %s a survivor was not ready: load balancers would send nobody there", last, victim.name)
	}
	p.moved(before, 0, p.clients, p.lostWith(victim), false) // nothing more since
	p.connected()
	p.stillCached(kept, survivors...)
	p.freed(connections, survivors...)
	p.probe()
	return excuse{victim, at.Add(-lastMoment), at}
}

// unreadyTime is how long survivors of a fault are watched: longer than an election.
const unreadyTime = 4 * time.Second

// lastUnready tells how long after a fault one of these nodes was last not ready, which load
// balancers see; 0 for never. A node that is slow to answer has not said so.
func lastUnready(at time.Time, nodes []*node) (last time.Duration) {
	for time.Since(at) < unreadyTime {
		for _, n := range nodes {
			if n.readiness() == http.StatusServiceUnavailable {
				last = time.Since(at)
			}
		}
		time.Sleep(poll)
	}
	return last
}

// written is how long after a fault a write was acknowledged, and known on another node.
type written struct{ acknowledged, known time.Duration }

func (p *population) checkWritten(what string, w written) {
	p.t.Helper()
	figure(p.t, what+", acknowledged", w.acknowledged)
	figure(p.t, what+", known on another node", w.known)
	if w.acknowledged > slack*writeLimit || w.known > slack*knownLimit {
		p.t.Errorf("%s: acknowledged after %v and known after %v, not within %v and %v", what, w.acknowledged, w.known, slack*writeLimit, slack*knownLimit)
	}
}

// createApp creates an app through one node, with requests that wait as long as given, until
// another node knows it.
func (p *population) createApp(begin time.Time, try time.Duration, through, known *node, id string) (w written) {
	body, err := json.Marshal(map[string]string{"id": id, "name": id})
	if err != nil {
		panic(err) // a map of texts
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for ctx.Err() == nil {
		trying, done := context.WithTimeout(ctx, try)
		err = through.admin(trying, http.MethodPost, "apps", body, nil)
		done()
		// There is one already: the answer to an earlier try was lost.
		if err == nil || strings.Contains(err.Error(), " 409 ") {
			break
		}
		time.Sleep(poll)
	}
	w.acknowledged = time.Since(begin)
	for ctx.Err() == nil && known.admin(ctx, http.MethodGet, "apps/"+id, nil, nil) != nil {
		time.Sleep(poll)
	}
	w.known = time.Since(begin)
	if ctx.Err() != nil {
		p.t.Errorf("app %s not created through %s and known on %s within %v: %v", id, through.name, known.name, patience, err)
	}
	return w
}

// comeBack starts a dead node with the data it had and checks that it is a full member.
func (p *population) comeBack(n *node, hooks *receiver) {
	p.t.Helper()
	before, webhooks, begin := p.mark(), hooks.mark(), time.Now()
	n.start()
	n.ready()
	figure(p.t, n.name+" back, ready", time.Since(begin))
	begin = time.Now()
	p.settle(settleLimit, n)
	figure(p.t, n.name+" back, knows who is where", time.Since(begin))
	hooks.exactly("after the return of "+n.name+" without clients", webhooks, 0)
	p.moved(before, 0, p.clients, nil, true)
	survivors := p.clients
	p.fill(n)
	p.moved(before, settleLimit, survivors, p.lostWith(n), true)
	p.watched(before, settleLimit, survivors, p.lostWith(n), true)
	p.settle(settleLimit, p.cluster.nodes...)
	hooks.exactly("after the return of the clients of "+n.name, webhooks, settleLimit, whenMoved(n, true)...)
	p.moved(before, 0, survivors, p.lostWith(n), true)
	p.connected()
	p.probe()
}
