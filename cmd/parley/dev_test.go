package main

import (
	"bufio"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// devOffset returns a port offset for "parley dev" with two nodes whose ports are free, and
// below those that other tests take.
func devOffset(t *testing.T) string {
	t.Helper()
	for range 100 {
		offset, free := 1+rand.IntN(400), true
		for _, base := range []int{6001, 9601, 11110, 11111} {
			for n := range 3 {
				l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base+offset+100*n)))
				if err != nil {
					free = false
					continue
				}
				_ = l.Close()
			}
		}
		if free {
			return strconv.Itoa(offset)
		}
	}
	t.Fatal("there are no free ports")
	return ""
}

// When nobody reads any more, as behind "| head", the nodes are stopped and the directory with
// their secrets is removed.
func TestDevWithoutReader(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no pipes that end a process")
	}
	temporary := t.TempDir()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "dev", "--nodes", "2", "--port_offset", devOffset(t))
	cmd.Env, cmd.Dir = append(environment(), "TMPDIR="+temporary), t.TempDir()
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	_ = write.Close() // this process's end of it
	if _, err := bufio.NewReader(read).ReadString('\n'); err != nil {
		t.Errorf("the first line: %v", err)
	}
	if entries, err := os.ReadDir(temporary); err != nil || len(entries) != 1 {
		t.Errorf("while it runs there are %v, %v", entries, err)
	}
	_ = read.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(2 * patience):
		_ = cmd.Process.Kill() // its nodes end with it
		<-ended
		t.Fatal("it does not end")
	}
	if entries, err := os.ReadDir(temporary); err != nil || len(entries) > 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
}
