package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// redialPause is the time between two attempts to replace a lost connection.
const redialPause = 100 * time.Millisecond

// httpPublisher publishes over one keep-alive connection. The request is put together by
// hand because a general HTTP client costs several times as much as all the rest.
type httpPublisher struct {
	load     *load
	dial     *dialer
	index    int
	channels []string
	template template
	sign     *signer
	path     string
	afterURL string // from the end of the query to the value of Content-Length

	conn    *net.TCPConn // nil while not connected
	in      *bufio.Reader
	body    []byte
	request []byte
}

func newHTTPPublisher(r *runner, l *load, index int) *httpPublisher {
	t := r.dial.targets[index%len(r.dial.targets)]
	return &httpPublisher{
		load: l, dial: r.dial, index: index, channels: r.channels,
		template: httpTemplate(r.cfg.Payload),
		sign:     newSigner(r.cfg.Key, r.cfg.Secret),
		path:     t.prefix + "/apps/" + r.cfg.AppID + "/events",
		afterURL: " HTTP/1.1\r\nHost: " + t.host +
			"\r\nContent-Type: application/json\r\nContent-Length: ",
		in: bufio.NewReaderSize(nil, 4096),
	}
}

func (p *httpPublisher) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.dial.timeout)
	defer cancel()
	conn, err := p.dial.tcp(ctx, p.index)
	if err != nil {
		return err
	}
	p.conn = conn
	p.in.Reset(conn)
	return nil
}

func (p *httpPublisher) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *httpPublisher) publish(ctx context.Context, i, due int64) (channel int, ok bool) {
	channel = int(i % int64(len(p.channels)))
	if p.conn == nil {
		if err := p.open(ctx); err != nil {
			p.load.failed.add(err)
			p.load.clock.sleepUntil(ctx, p.load.clock.now()+int64(redialPause))
			return channel, false
		}
	}
	sent := p.load.clock.now()
	if p.load.rate == 0 {
		due = sent
	}
	status, err := p.post(ctx, p.template.append(p.body[:0], p.channels[channel], due, sent))
	if err != nil {
		p.load.failed.add(err)
		p.close()
		return channel, false
	}
	if t := p.load.tally; due >= t.from.Load() && due < t.to.Load() {
		p.load.calls.record(p.load.clock.now() - sent)
	}
	if status != http.StatusOK {
		p.load.refused.addReason(strconv.Itoa(status))
		return channel, false
	}
	return channel, true
}

// post sends the body and returns the status of the response.
func (p *httpPublisher) post(ctx context.Context, body []byte) (status int, err error) {
	p.body = body
	b := append(append(append(p.request[:0], "POST "...), p.path...), '?')
	b = p.sign.appendQuery(b, p.path, body, time.Now().Unix())
	b = append(b, p.afterURL...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(append(b, "\r\n\r\n"...), body...)
	p.request = b
	conn := p.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(b); err != nil {
		return 0, fmt.Errorf("send publish: %w", err)
	}
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		return 0, fmt.Errorf("read response: %w", err)
	}
	_, err = io.Copy(io.Discard, response.Body)
	response.Body.Close()
	if err != nil {
		return 0, fmt.Errorf("read response body: %w", err)
	}
	if response.Close {
		p.close()
	}
	return response.StatusCode, nil
}
