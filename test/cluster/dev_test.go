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
	"syscall"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// laptop is a running "parley dev".
type laptop struct {
	*testing.T
	*process.Process
	typed  io.WriteCloser
	offset int
}

// freeOffset returns an offset whose ports are free.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 100 {
		offset := 1000 + rand.IntN(18000)
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
	l := &laptop{T: t, typed: typed, offset: freeOffset(t)}
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
	for range 3 { // one on each node
		s := dialing{url: "ws://" + server, key: key[1]}.must(t)
		s.subscribe(t, "my-channel")
		clients = append(clients, s)
	}
	file := filepath.Join(dir, "parley.toml")
	say := func(data string) {
		t.Helper()
		time.Sleep(interest)
		p := launch(t, nil, parley, "publish", "-c", file, "my-channel", "my-event", data)
		<-p.Ended()
		if code := p.Await(); code != 0 {
			t.Fatalf("publish ends with %d: %s", code, p.Output())
		}
	}
	say("one")
	for _, s := range clients {
		s.want(t, "my-event", "one")
	}
	l.types("kill 2")
	l.sees("node1 ready, node2 killed, node3 ready; new clients go to node1, node3")
	say("two")
	survivors := 0
	for _, s := range clients {
		if event, data, err := s.next(); err == nil && event == "my-event" && data == "two" {
			survivors++
		}
	}
	if survivors != 2 {
		t.Errorf("%d of the 3 clients have survived, want 2", survivors)
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
	ended := make(chan struct{}, count)
	for range count { // one on each node
		s := at.must(t)
		go func() { s.closeCode(); ended <- struct{}{} }()
	}
	number, err := strconv.Atoi(pid[1])
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.FindProcess(number); err != nil || other.Kill() != nil {
		t.Fatal("there is no such process", err)
	}
	select {
	case <-ended:
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
