package rabbitmq_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/fabric/rabbitmq"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// testPrefixes has two environments share a broker, and one store.
func testPrefixes(t *testing.T, server *servers.RabbitMQ) {
	store := memory.New()
	name := strings.Repeat("n", 128) // as long as a name may be
	var queues []fabric.Queue
	for _, prefix := range []string{"blue", strings.Repeat("p", 64)} {
		o := options(server, store)
		o.Prefix = prefix
		queues = append(queues, openQueue(t, open(t, o), config(name)))
	}
	enqueue(t, queues[0], fabric.Job{ID: "job", Payload: []byte("blue")})
	wantLen(t, queues[1], 0)
	enqueue(t, queues[1], fabric.Job{ID: "job", Payload: []byte("green")})
	handler, jobs := attempts()
	work(t, queues[1], handler)
	if job := receive(t, "job", jobs); string(job.Payload) != "green" {
		t.Errorf("got the job of %s", job.Payload)
	}
	wantLen(t, queues[0], 1)

	for _, bad := range []string{"a.b", "a:b", "a@b", "ü", strings.Repeat("p", 65)} {
		o := options(server, store)
		o.Prefix = bad
		if _, err := rabbitmq.Open(t.Context(), o); !errors.Is(err, fabric.ErrInvalidConfig) {
			t.Errorf("prefix %q: %v", bad, err)
		}
	}
}

// testVirtualHosts uses another virtual host, as a user who may do no more than is needed.
func testVirtualHosts(t *testing.T, server *servers.RabbitMQ) {
	server.Eval(t, `
		rabbit_vhost:add(<<"team/a">>, <<"test">>),
		rabbit_auth_backend_internal:add_user(<<"worker">>, <<"p@ss:/word">>, <<"test">>),
		rabbit_auth_backend_internal:set_permissions(<<"worker">>, <<"team/a">>,
			<<"^parley[.]">>, <<"^(parley[.].*|amq[.]default)$">>, <<"^parley[.]">>, <<"test">>).`)
	o := options(server, memory.New())
	here := openQueue(t, open(t, o), config("vhost"))
	there, err := url.Parse(server.URL("team/a"))
	must(t, err)
	there.User = url.UserPassword("worker", "p@ss:/word")
	o.URLs = []string{there.String()}
	o.Cache, o.Documents = memory.New(), memory.New()
	p := open(t, o)
	must(t, p.Ping(t.Context()))
	q := openQueue(t, p, config("vhost"))
	enqueue(t, q, fabric.Job{ID: "job", NotBefore: time.Now().Add(200 * time.Millisecond)})
	wantLen(t, q, 1)
	wantLen(t, here, 0)
	handler, jobs := attempts()
	work(t, q, handler)
	receive(t, "job", jobs)
}

// testFailover names a broker that is not there beside one that is.
func testFailover(t *testing.T, server *servers.RabbitMQ) {
	o := options(server, memory.New())
	nobody := "amqp://guest:guest@" + process.Address(process.FreePorts(t, 1))
	o.URLs = []string{nobody, server.URL("/"), nobody}
	for range 5 { // it begins with a random one
		p := open(t, o)
		must(t, p.Ping(t.Context()))
	}
}

func testRefused(t *testing.T, server *servers.RabbitMQ) {
	store := memory.New()
	for what, change := range map[string]func(*url.URL){
		"password":     func(u *url.URL) { u.User = url.UserPassword("guest", "secret") },
		"virtual host": func(u *url.URL) { u.Path = "/unknown" },
	} {
		u, err := url.Parse(server.URL("x"))
		must(t, err)
		u.RawPath = ""
		change(u)
		o := options(server, store)
		o.URLs = []string{u.String()}
		o.Logger = logger(t)
		_, err = rabbitmq.Open(t.Context(), o)
		if err == nil || errors.Is(err, fabric.ErrUnavailable) || strings.Contains(err.Error(), "secret") {
			t.Errorf("wrong %s: %v", what, err)
		}
	}
	o := options(server, store)
	o.URLs = []string{"amqp://" + process.Address(process.FreePorts(t, 1))}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := rabbitmq.Open(ctx, o)
	if !errors.Is(err, fabric.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no broker: %v", err)
	}
}

func testTLS(t *testing.T, server *servers.RabbitMQ) {
	certificate := server.CertFile
	o := options(server, memory.New())
	o.URLs = []string{server.TLSURL("/") + "?cacertfile=" + url.QueryEscape(certificate)}
	must(t, open(t, o).Ping(t.Context()))

	pem, err := os.ReadFile(certificate)
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	o.URLs = []string{server.TLSURL("/")}
	o.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	q := openQueue(t, open(t, o), config("tls"))
	payload := bytes.Repeat([]byte("x"), fabric.MaxValueSize)
	enqueue(t, q, fabric.Job{Payload: payload})
	handler, jobs := attempts()
	work(t, q, handler)
	if job := receive(t, "job", jobs); !bytes.Equal(job.Payload, payload) {
		t.Errorf("got %d bytes", len(job.Payload))
	}

	o.TLS = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	o.Logger = logger(t)
	var unknown x509.UnknownAuthorityError
	if _, err := rabbitmq.Open(t.Context(), o); !errors.As(err, &unknown) {
		t.Errorf("a broker with a certificate of nobody: %v", err)
	}
}

// testSameIDAnywhere has several nodes enqueue jobs with the same IDs at the same time.
func testSameIDAnywhere(t *testing.T, server *servers.RabbitMQ) {
	const nodes, ids = 3, 20
	store := memory.New()
	var queues []fabric.Queue
	for range nodes {
		queues = append(queues, openQueue(t, open(t, options(server, store)), config("same-id")))
	}
	var running sync.WaitGroup
	for _, q := range queues {
		running.Go(func() {
			for i := range ids {
				enqueue(t, q, fabric.Job{ID: string(rune('a' + i))})
			}
		})
	}
	running.Wait()
	wantLen(t, queues[0], ids)
	handler, jobs := attempts()
	for _, q := range queues {
		work(t, q, handler)
	}
	for range ids {
		receive(t, "job", jobs)
	}
	wantLen(t, queues[1], 0)
	if len(jobs) != 0 {
		t.Errorf("%d jobs too many", len(jobs))
	}
}

// testFullAnywhere has several callers of two nodes fill a queue.
func testFullAnywhere(t *testing.T, server *servers.RabbitMQ) {
	const limit = 50
	store := memory.New()
	c := config("full")
	c.MaxJobs = limit
	var queues []fabric.Queue
	for range 2 {
		queues = append(queues, openQueue(t, open(t, options(server, store)), c))
	}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			for range limit {
				_, err := queues[i%2].Enqueue(t.Context(), fabric.Job{})
				if err != nil && !errors.Is(err, fabric.ErrFull) {
					t.Error(err)
				}
			}
		})
	}
	running.Wait()
	for _, q := range queues {
		for { // of those that came at the same time, some may have been refused too early
			if _, err := q.Enqueue(t.Context(), fabric.Job{}); err != nil {
				break
			}
		}
	}
	// Each node may add a quarter of what is free before it asks again.
	n, err := queues[0].Len(t.Context())
	must(t, err)
	if n < limit || n > limit+limit/8 {
		t.Errorf("%d jobs in a queue of %d", n, limit)
	}
}

// testLenAnywhere asks one node for jobs that run on another.
func testLenAnywhere(t *testing.T, server *servers.RabbitMQ) {
	const jobs = 3
	store := memory.New()
	c := config("len")
	c.Concurrency = jobs
	here := openQueue(t, open(t, options(server, store)), c)
	other := open(t, options(server, store))
	there := openQueue(t, other, c)
	started, release := make(chan struct{}, jobs), make(chan struct{})
	work(t, there, func(context.Context, fabric.Job) error {
		started <- struct{}{}
		<-release
		return nil
	})
	for range jobs {
		enqueue(t, here, fabric.Job{})
		receive(t, "handler", started)
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		n, err := here.Len(t.Context())
		must(t, err)
		if n != jobs {
			t.Fatalf("%d jobs, want %d", n, jobs)
		}
	}
	close(release)
	wantLen(t, here, 0)
}
