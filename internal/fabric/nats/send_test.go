package nats

import (
	"errors"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

// What a leader took along is not waited for when the stream has another one.
func TestSendToOldLeader(t *testing.T) {
	_, p := open(t)
	_, err := p.conn.Subscribe("swallowed.>", func(*natsgo.Msg) {}) // as a leader does that is about to go
	check(t, err)
	s := &sender{provider: p, stream: "some"}
	failed := make(chan error, 1)
	begin := time.Now()
	check(t, s.send("swallowed.", 0, fabric.NewEntry{Subject: "a", Payload: []byte("1")}, func(err error) { failed <- err }))
	check(t, p.conn.Publish(subjectElected+"another", nil))
	select {
	case err := <-failed:
		t.Fatalf("the leader of another stream changed, and it fails: %v", err)
	case <-time.After(electedGrace + 2*sendSweep): // that nothing comes cannot be awaited
	}
	check(t, p.conn.Publish(subjectElected+"some", nil))
	if err := <-failed; !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("it fails with %v", err)
	}
	if took := time.Since(begin); took >= fabric.SendTimeout {
		t.Errorf("it fails after %v", took)
	}
}
