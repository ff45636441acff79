//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// diskSize is that of a node's small disk.
const diskSize = 48 << 20

// smallDisks mounts a file system in memory for each node. An error says that this is not
// allowed.
func smallDisks(t *testing.T) (dirs []string, err error) {
	t.Helper()
	for range nodeCount {
		dir := t.TempDir()
		if err := syscall.Mount("parley", dir, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
			return nil, fmt.Errorf("mount a small disk: %w", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		})
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// filler is the file that takes the space.
const filler = "filler"

// fillDisk leaves no byte free on a node's disk.
func (n *node) fillDisk() {
	n.t.Helper()
	file, err := os.Create(filepath.Join(n.dir, filler))
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // its size is what counts
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = file.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		n.t.Fatalf("fill the disk of %s: %v", n.name, err)
	}
}

func (n *node) freeDisk() {
	n.t.Helper()
	if err := os.Remove(filepath.Join(n.dir, filler)); err != nil {
		n.t.Fatal(err)
	}
}

// readiness is the status of /ready, 0 for no answer.
func (n *node) readiness() int {
	answer, err := httpClient.Get("http://" + n.address() + "/ready")
	if err != nil {
		return 0
	}
	_ = answer.Body.Close() // its status is all
	return answer.StatusCode
}

// TestFullDisk fills the disk of each node in turn under traffic: one of them leads what is
// written.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dirs, err := smallDisks(t)
	if err != nil {
		t.Skipf("a full disk needs the right to mount one: %v", err)
	}
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL, dirs: dirs})
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	for _, n := range c.nodes {
		tr := startTraffic(t, c)
		p.fullDisk(n, hooks)
		tr.check(append(p.clients, p.past...))
		p.forget()
	}
}

// restartAdvice is what the log says as soon as the store is off, which does not come back by
// itself.
const restartAdvice = "restart this node"

// fullDisk fills a node's disk, frees it, and does what the node asks for. Apps whose creation
// was acknowledged are known afterwards.
func (p *population) fullDisk(n *node, hooks *receiver) {
	p.t.Helper()
	var apps []string
	others := p.cluster.except(n)
	before, webhooks, begin := p.mark(), hooks.mark(), time.Now()
	n.fillDisk()
	for i, through := range []*node{others[0], n, others[1]} {
		id := fmt.Sprintf("full-%s-%d", n.name, i)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		wrote := time.Now()
		err := through.admin(ctx, http.MethodPost, "apps", []byte(fmt.Sprintf(`{"id":%q,"name":"x"}`, id)), nil)
		cancel()
		figure(p.t, fmt.Sprintf("disk of %s full, app created through %s (%v)", n.name, through.name, err), time.Since(wrote))
		if err == nil {
			apps = append(apps, id)
		} else if through != n {
			p.t.Errorf("app not created through %s, whose disk is not full: %v", through.name, err)
		}
	}
	off := eventually(patience, func() bool {
		if !strings.Contains(n.log(), restartAdvice) { // what is on the disk has some room left
			id := fmt.Sprintf("full-%s-%d", n.name, time.Now().UnixNano())
			p.createApp(time.Now(), patience, others[0], others[1], id)
			apps = append(apps, id)
		}
		return n.readiness() == http.StatusServiceUnavailable
	})
	figure(p.t, "disk of "+n.name+" full, it is not ready", time.Since(begin))
	if !off {
		p.t.Errorf("%s is ready with a full disk after %d writes, or its log does not say %q", n.name, len(apps), restartAdvice)
	}
	for _, other := range others {
		if other.readiness() == http.StatusServiceUnavailable {
			p.t.Errorf("%s is not ready, while the disk of %s is full", other.name, n.name)
		}
	}
	p.comeAndGo("while the disk of "+n.name+" is full", hooks, webhooks)
	p.settle(settleLimit, p.cluster.nodes...)
	p.moved(before, 0, p.clients, nil, false)
	p.probe()
	n.freeDisk()
	p.stop(n, hooks)
	p.comeBack(n, hooks)
	for _, id := range apps {
		p.cluster.know(id)
	}
}

// comeAndGo has a client of each node occupy a channel, and leave it. Behind the mark there
// are no webhooks but theirs.
func (p *population) comeAndGo(when string, hooks *receiver, before int) {
	p.t.Helper()
	var occupied, vacated []string
	var clients []*client
	id := probes.Add(1)
	for _, n := range p.cluster.living() {
		channel := fmt.Sprintf("comes-and-goes-%d-%s", id, n.name)
		occupied, vacated = append(occupied, "channel_occupied "+channel), append(vacated, "channel_vacated "+channel)
		c := connect(p.t, n, mainApp, "comes and goes", "")
		if err := c.subscribe(channel); err != nil {
			p.t.Error(err)
		}
		clients = append(clients, c)
	}
	hooks.exactly("of those who come "+when, before, settleLimit, occupied...)
	before = hooks.mark()
	for _, c := range clients {
		c.close()
	}
	hooks.exactly("of those who go "+when, before, settleLimit, vacated...)
}
