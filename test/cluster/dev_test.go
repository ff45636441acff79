package cluster

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/test/process"
)

// laptop is a running "parley dev".
type laptop struct {
	*testing.T
	*process.Process
	typed  io.WriteCloser
	dir    string
	offset int
}

// freeOffset returns an offset whose ports are free, and below those that other tests take.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 100 {
		offset := 1 + rand.IntN(400)
		free := true
		for _, base := range []int{6001, 9601, 11110, 11111} {
			for n := range count + 1 {
				l, err := net.Listen("tcp", process.Address(base+offset+100*n))
				if err != nil {
					free = false
					continue
				}
				_ = l.Close()
			}
		}
		if free {
			return offset
		}
	}
	t.Fatal("there are no free ports")
	return 0
}

func startLaptop(t *testing.T, dir string) *laptop {
	t.Helper()
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = typed.Close() })
	l := &laptop{T: t, typed: typed, dir: dir, offset: freeOffset(t)}
	l.Process = launch(t, in, parley, "dev", "--data-dir", dir, "--port_offset", strconv.Itoa(l.offset))
	l.sees("Type ")
	return l
}

func (l *laptop) types(command string) {
	l.Helper()
	if _, err := fmt.Fprintln(l.typed, command); err != nil {
		l.Fatal(err)
	}
}

// sees waits until something is on the terminal.
func (l *laptop) sees(text string) {
	l.Helper()
	eventually(l.T, strconv.Quote(text)+" is on the terminal", func() bool { return strings.Contains(l.Output(), text) })
}

// clients counts those that are connected to a node.
func (l *laptop) clients(n int) int {
	l.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, "parley.toml"))
	if err != nil {
		l.Fatal(err)
	}
	token := regexp.MustCompile(`token = "([0-9a-f]+)"`).FindSubmatch(text)
	if token == nil {
		l.Fatal("the configuration has no token")
	}
	node := &admin.Client{Server: "http://" + process.Address(6001+l.offset+100*n), Token: string(token[1])}
	view, err := node.Cluster(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	for _, m := range view.Members {
		if m.Name == fmt.Sprint("node", n) {
			return m.Connections
		}
	}
	l.Fatalf("node%d does not see itself: %+v", n, view)
	return 0
}

// everywhere connects clients until each node has one. A node that is slow to say that it is
// ready is passed over meanwhile.
func (l *laptop) everywhere(connect func()) {
	l.Helper()
	for n := range count {
		eventually(l.T, fmt.Sprintf("node%d has a client", n+1), func() bool {
			if l.clients(n+1) == 0 {
				connect()
			}
			return l.clients(n+1) > 0
		})
	}
}

// say publishes an event and counts the clients that hear it; the connections of the others have
// ended. It publishes until all have, as nothing tells when every node knows of the channel.
func (l *laptop) say(data string, clients []*socket) (heard int) {
	l.Helper()
	results := make(chan bool, len(clients))
	for _, s := range clients {
		go func() {
			event, got, err := s.next()
			for err == nil && (event != "my-event" || got != data) { // what was said before
				event, got, err = s.next()
			}
			results <- err == nil
		}()
	}
	for left := len(clients); left > 0; {
		p := launch(l.T, nil, parley, "publish", "-c", filepath.Join(l.dir, "parley.toml"), "my-channel", "my-event", data)
		if code := p.Await(); code != 0 {
			l.Fatalf("publish ends with %d: %s", code, p.Output())
		}
		for again := time.After(time.Second); left > 0 && again != nil; {
			select {
			case hears := <-results:
				left--
				if hears {
					heard++
				}
			case <-again:
				again = nil
			}
		}
	}
	return heard
}

// ends waits for the end of everything, which must have been in order.
func (l *laptop) ends() {
	l.Helper()
	select {
	case <-l.Ended():
	case <-time.After(patience):
		l.Fatal("it does not end")
	}
	if code := l.Await(); code != 0 {
		l.Errorf("it ends with %d", code)
	}
	for n := range count + 1 {
		at := process.Address(6001 + l.offset + 100*n)
		if conn, err := net.Dial("tcp", at); err == nil {
			_ = conn.Close()
			l.Errorf("somebody still listens on %s", at)
		}
	}
}

func TestDev(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := startLaptop(t, dir)
	key := regexp.MustCompile(`key +([0-9a-f]{20})\n`).FindStringSubmatch(l.Output())
	if key == nil || !strings.Contains(l.Output(), "?key="+key[1]) {
		t.Fatal("the greeting does not tell the key and where to open it")
	}
	server := "localhost:" + strconv.Itoa(6001+l.offset)
	if response, err := http.Get("http://" + server + "/?key=" + key[1]); err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("what is to be opened: %v, %v", response, err)
	} else {
		_ = response.Body.Close()
	}
	clients := []*socket{}
	l.everywhere(func() {
		s := dialing{url: "ws://" + server, key: key[1]}.must(t)
		s.subscribe(t, "my-channel")
		clients = append(clients, s)
	})
	if heard := l.say("one", clients); heard != len(clients) {
		t.Errorf("%d of %d clients have heard it", heard, len(clients))
	}
	lost := l.clients(2)
	l.types("kill 2")
	l.sees("node1 ready, node2 killed, node3 ready; new clients go to node1, node3")
	if survivors := l.say("two", clients); survivors != len(clients)-lost {
		t.Errorf("%d of %d clients have survived, %d were at node2", survivors, len(clients), lost)
	}
	mark := len(l.Output())
	l.types("restart 2")
	eventually(t, "node2 is back", func() bool {
		return strings.Contains(l.Output()[mark:], "node1 ready, node2 ready, node3 ready")
	})
	l.types("kill 4")
	l.sees("kill which node, 1 to 3?")
	for _, s := range clients {
		_ = s.Close()
	}
	l.types("quit")
	l.ends()

	// The same directory has the same app, and Ctrl-C is as good as quit.
	again := startLaptop(t, dir)
	if !strings.Contains(again.Output(), key[1]) {
		t.Error("the app is another one")
	}
	again.Signal(syscall.SIGINT)
	again.ends()
}

// A node that is killed from elsewhere is shown, and its clients find another one.
func TestDevKilledElsewhere(t *testing.T) {
	t.Parallel()
	l := startLaptop(t, t.TempDir())
	key := regexp.MustCompile(`key +([0-9a-f]{20})\n`).FindStringSubmatch(l.Output())
	pid := regexp.MustCompile(`node3 is process (\d+)\n`).FindStringSubmatch(l.Output())
	if key == nil || pid == nil {
		t.Fatal("the terminal does not tell the key and the processes")
	}
	at := dialing{url: "ws://localhost:" + strconv.Itoa(6001+l.offset), key: key[1]}
	noticed := make(chan struct{})
	var once sync.Once
	l.everywhere(func() {
		s := at.must(t)
		go func() { s.lastCode(); once.Do(func() { close(noticed) }) }()
	})
	number, err := strconv.Atoi(pid[1])
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.FindProcess(number); err != nil || other.Kill() != nil {
		t.Fatal("there is no such process", err)
	}
	select {
	case <-noticed:
	case <-time.After(patience):
		t.Fatal("no client notices")
	}
	again := at.must(t)
	again.subscribe(t, "my-channel")
	l.sees("node3 ended by itself (signal: killed); new clients go to node1, node2")

	mark := len(l.Output())
	after := func(command, text string) {
		t.Helper()
		l.types(command)
		eventually(t, text, func() bool { return strings.Contains(l.Output()[mark:], text) })
		mark = len(l.Output())
	}
	after("status", "node3 ended by itself")
	after("restart 3", "node1 ready, node2 ready, node3 ready")
	after("stop 2", "node2 stopped, node3 ready; new clients go to node1, node3")
	after("stop 2", "node2 does not run")
	after("restart node2", "node1 ready, node2 ready, node3 ready")
	after("drain 2", "node2 draining, node3 ready; new clients go to node1, node3")
	after("undrain 2", "node1 ready, node2 ready, node3 ready")
	after("undrain 2", "node2 was not draining")
	after("dance", "commands: kill N")
	l.types("quit")
	l.ends()
}
