package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// errOtherDomain says that a node of another domain answered: it is none of ours.
var errOtherDomain = errors.New("node of another domain")

// errProtocol says that what answered speaks another hello protocol, or is no node at all.
var errProtocol = errors.New("no or another hello protocol")

// asker asks one question at one address.
type asker struct {
	domain  string
	key     []byte
	tls     *tls.Config
	timeout time.Duration
}

// ask makes own known at address and returns what the node there says of itself. Errors:
// errOtherDomain, errProtocol, ErrSecret, those of the network.
func (a asker) ask(ctx context.Context, address string, own statement) (statement, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	answer, err := a.exchange(ctx, address, own)
	if err != nil {
		return statement{}, fmt.Errorf("ask %s: %w", address, err)
	}
	return answer, nil
}

func (a asker) exchange(ctx context.Context, address string, own statement) (statement, error) {
	conn, err := a.dial(ctx, address)
	if err != nil {
		return statement{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	sent, err := json.Marshal(newGreeting(a.domain))
	if err != nil {
		return statement{}, err
	}
	if err := writeFrame(conn, sent, maxGreetingSize); err != nil {
		return statement{}, a.failed(err)
	}
	received, err := readFrame(conn, maxGreetingSize)
	if err != nil {
		return statement{}, notOurs(a.failed(err))
	}
	reply, err := decodeGreeting(received)
	if err != nil {
		return statement{}, notOurs(err)
	}
	switch {
	case reply.Refusal == refusedDomain || reply.Protocol == helloProtocol && reply.Domain != a.domain:
		return statement{}, fmt.Errorf("%w %q", errOtherDomain, reply.Domain)
	case reply.Refusal != "" || checkGreeting(reply, a.domain) != "":
		return statement{}, fmt.Errorf("%w: %.50q", errProtocol, reply.Protocol)
	}

	script := transcript(sent, received)
	own.Members, own.Heard, own.Forgotten = nil, nil, nil
	question, err := seal(a.key, speakerAsker, script, own)
	if err != nil {
		return statement{}, err
	}
	if err := writeFrame(conn, question, maxQuestionSize); err != nil {
		return statement{}, err
	}
	answer, err := readFrame(conn, maxAnswerSize)
	if err != nil {
		return statement{}, err
	}
	return open(a.key, speakerAsked, script, answer)
}

func (a asker) dial(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	if a.tls == nil {
		return dialer.DialContext(ctx, "tcp", address)
	}
	conn, err := (&tls.Dialer{NetDialer: &dialer, Config: a.tls}).DialContext(ctx, "tcp", address)
	return conn, overTLS(err)
}

// failed is the error of an exchange that ended before the first answer: with TLS 1.3 a side
// that shows a bad certificate learns it only then.
func (a asker) failed(err error) error {
	if a.tls == nil {
		return err
	}
	return overTLS(err)
}

// notOurs turns a malformed first answer into errProtocol; errors of the network stay.
func notOurs(err error) error {
	switch {
	case errors.Is(err, errSpeaksTLS):
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	case errors.Is(err, errFrame):
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	return err
}

// timedOut says whether nothing came back in time.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
