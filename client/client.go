// Package client calls the primitives of a Parley cluster: cache, signals, queues, locks and ids.
// Give it several nodes, and it goes on with another when one does not answer.
//
//	c, err := client.New(client.Options{
//		Endpoints: []string{"http://10.0.0.5:6001", "http://10.0.0.6:6001"},
//		Token:     "pk_…",
//	})
//
// Every call takes a context and ends with it. What fails for the moment is tried again, for
// Options.RetryFor, so that nothing is done twice: a request that may have been done is sent
// again only if it does no harm, or with an idempotency key.
//
// It imports the standard library, and nothing of Parley.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Options configure a Client. Endpoints and Token must be set.
type Options struct {
	// Endpoints are nodes of one cluster, or a balancer: scheme, host, port, and the path prefix
	// if the nodes have one.
	Endpoints []string
	// Token is that of the key.
	Token string
	// HTTP sends the requests; nil for one of its own.
	HTTP *http.Client
	// AttemptTimeout is how long a node may take to answer before another is asked; 0 is 5 s. What
	// a request waits for is added.
	AttemptTimeout time.Duration
	// RetryFor is how long a call is tried again that fails for the moment; 0 is 15 s, negative is
	// not at all.
	RetryFor time.Duration
}

// Client calls the nodes of a cluster. It is safe for concurrent use.
type Client struct {
	options   Options
	endpoints []string
	current   atomic.Uint32 // index of the endpoint that answered last
}

// Pauses between tries, doubled each time.
const (
	retryMin = 50 * time.Millisecond
	retryMax = 2 * time.Second
)

// maxAnswer is the size in bytes of the largest answer: a batch of jobs.
const maxAnswer = 128 << 20

// New returns a client. It connects to nobody yet.
func New(options Options) (*Client, error) {
	if len(options.Endpoints) == 0 || options.Token == "" {
		return nil, errors.New("client: endpoints and token must be set")
	}
	c := &Client{options: options}
	for _, endpoint := range options.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("client: endpoint %q is not like http://127.0.0.1:6001", endpoint)
		}
		c.endpoints = append(c.endpoints, strings.TrimRight(endpoint, "/")+"/v1")
	}
	if c.options.HTTP == nil {
		c.options.HTTP = &http.Client{}
		if transport, ok := http.DefaultTransport.(*http.Transport); ok {
			transport = transport.Clone()
			transport.MaxIdleConnsPerHost = 64 // many goroutines may call one node
			c.options.HTTP.Transport = transport
		}
	}
	if c.options.AttemptTimeout == 0 {
		c.options.AttemptTimeout = 5 * time.Second
	}
	if c.options.RetryFor == 0 {
		c.options.RetryFor = 15 * time.Second
	}
	return c, nil
}

// request is one call.
type request struct {
	method, path string
	query        url.Values
	body         any           // []byte is sent as it is, everything else as JSON
	answer       any           // *[]byte takes the body as it is, everything else as JSON; nil for none
	wait         time.Duration // that the node may take beyond AttemptTimeout
	once         bool          // it must not be done twice: with an idempotency key
	single       bool          // it is not tried again when it may have been done
}

// do sends a request until it is answered for good.
func (c *Client) do(ctx context.Context, r request) error {
	body, contentType, err := r.encode()
	if err != nil {
		return err
	}
	header := http.Header{"Authorization": {"Bearer " + c.options.Token}}
	if body != nil {
		header.Set("Content-Type", contentType)
	}
	if r.once {
		header.Set("Idempotency-Key", rand.Text())
	}
	begin, wait := time.Now(), retryMin
	for {
		at := c.current.Load()
		err := c.try(ctx, c.endpoints[int(at)%len(c.endpoints)], r, header, body)
		if err == nil || ctx.Err() != nil {
			return r.failed(ctx, err)
		}
		what := advise(err)
		if what.elsewhere {
			c.current.CompareAndSwap(at, at+1)
		}
		pause := max(what.after, wait/2+time.Duration(mathrand.Int64N(int64(wait))))
		if !what.again || r.single && what.maybeDone || time.Since(begin)+pause > c.options.RetryFor {
			return r.failed(ctx, err)
		}
		if sleep(ctx, pause) != nil {
			return r.failed(ctx, err)
		}
		wait = min(2*wait, retryMax)
	}
}

// failed says which call failed.
func (r request) failed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	return fmt.Errorf("parley: %s %s: %w", r.method, r.path, err)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r request) encode() (body []byte, contentType string, err error) {
	switch value := r.body.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return value, "application/octet-stream", nil
	}
	body, err = json.Marshal(r.body)
	return body, "application/json", err
}

// try asks one node.
func (c *Client) try(ctx context.Context, endpoint string, r request, header http.Header, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.AttemptTimeout+r.wait)
	defer cancel()
	address := endpoint + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	out, err := http.NewRequestWithContext(ctx, r.method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	out.Header = header.Clone()
	in, err := c.options.HTTP.Do(out)
	if err != nil {
		return &unreachable{err}
	}
	defer func() { _ = in.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(in.Body, maxAnswer))
	if err != nil {
		return &unreachable{err}
	}
	if in.StatusCode/100 != 2 {
		return readError(in, text)
	}
	switch answer := r.answer.(type) {
	case nil:
		return nil
	case *[]byte:
		*answer = text
		return nil
	}
	if err := json.Unmarshal(text, r.answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

func milliseconds(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

func duration(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
