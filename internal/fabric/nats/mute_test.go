package nats_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/nats"
)

// gate stands between clients and a server. While it is shut what clients send is held back, and
// what the server sends passes.
type gate struct {
	address string
	shut    sync.Mutex // held while it is
}

func newGate(t *testing.T, server string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	g := &gate{address: listener.Addr().String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // the test has ended
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				defer upstream.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := client.Read(buffer)
					g.shut.Lock()
					if err == nil {
						_, err = upstream.Write(buffer[:n])
					}
					g.shut.Unlock()
					if err != nil {
						return
					}
				}
			}()
			go func() {
				defer client.Close()
				_, _ = io.Copy(client, upstream) // ends with one of the two
			}()
		}
	}()
	return g
}

// connectUser returns a provider of the user of startServer that is closed with the test, which ends its workers.
func connectUser(t *testing.T, url string) *nats.Provider {
	t.Helper()
	p, err := nats.Connect(t.Context(), nats.Server{URLs: []string{url}, User: "parley", Password: "p:ss/word"}, nats.Options{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// TestUnheardWorker has a worker that hears the queue and is not heard by it get a job: it must
// leave it to others.
func TestUnheardWorker(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	g := newGate(t, strings.TrimPrefix(url, "nats://"))
	connect := func(url string) fabric.Queue {
		q, err := connectUser(t, url).Queue(t.Context(), fabric.QueueConfig{
			Name: "q", Visibility: 2 * time.Second, MaxJobs: 10, MaxDead: 10, Concurrency: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	unheard, healthy := connect("nats://"+g.address), connect(url)
	work := func(q fabric.Queue) <-chan string {
		done := make(chan string, 10)
		go func() {
			_ = q.Work(t.Context(), func(_ context.Context, job fabric.Job) error {
				done <- job.ID
				return nil
			})
		}()
		return done
	}
	first := work(unheard)
	if _, err := healthy.Enqueue(t.Context(), fabric.Job{ID: "before"}); err != nil {
		t.Fatal(err)
	}
	<-first // it works, and asks for the next job behind this
	for {   // until that one's acknowledgement has arrived
		if n, err := healthy.Len(t.Context()); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			break
		}
	}
	time.Sleep(100 * time.Millisecond) // nothing tells that the request for the next has arrived
	g.shut.Lock()
	defer g.shut.Unlock()
	if _, err := healthy.Enqueue(t.Context(), fabric.Job{ID: "job"}); err != nil {
		t.Fatal(err)
	}
	second := work(healthy)
	select {
	case id := <-second:
		if id != "job" {
			t.Errorf("the other worker did %q", id)
		}
	case id := <-first:
		t.Errorf("who is not heard did %q", id)
	case <-time.After(time.Minute):
		t.Error("nobody did the job")
	}
	select {
	case id := <-first:
		t.Errorf("who is not heard did %q as well", id)
	default:
	}
}

// TestSameValue has two write the same value over the same revision, of whom one is heard so late that
// it repeats itself: the value that it finds is not its own.
func TestSameValue(t *testing.T) {
	t.Parallel()
	url := startServer(t)
	g := newGate(t, strings.TrimPrefix(url, "nats://"))
	connect := func(url string) fabric.Documents {
		d, err := connectUser(t, url).Documents(t.Context(), "d")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	late, punctual := connect("nats://"+g.address), connect(url)
	for _, revision := range []uint64{0, 1} {
		g.shut.Lock()
		time.AfterFunc(time.Second, g.shut.Unlock) // more than a try lasts
		result := make(chan error, 1)
		go func() {
			_, err := late.Put(t.Context(), "k", []byte("same"), revision)
			result <- err
		}()
		if _, err := punctual.Put(t.Context(), "k", []byte("same"), revision); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, fabric.ErrConflict) {
			t.Errorf("over revision %d the second writer was told %v, want ErrConflict", revision, err)
		}
	}
}
