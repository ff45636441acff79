package cluster

import (
	"errors"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Over a bus no connection ends when a node dies: those who are silent are asked, and who does not
// listen any more is dead before the timeout.
func TestKilledNodeIsAskedOverABus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := emptyRoom(t)
		r.overBus = true
		for n := range 3 {
			r.start(n+1, 1)
		}
		r.pass(10 * time.Second)
		r.expect("n1 n2 n3", 1, 2, 3)
		r.forgetSaw()
		r.kill(2)
		r.pass(1400 * time.Millisecond)
		r.expect("n1 n2 n3", 1, 3)
		r.pass(1700 * time.Millisecond)
		r.expect("n1 n3", 1, 3)
		r.expectSaw("-n2", 1, 3)
	})
}

func TestMeet(t *testing.T) {
	options := Options{DataDir: filepath.Join(t.TempDir(), "bus"), OverBus: true, AdvertiseHost: "10.0.0.5",
		Addresses: map[string]string{AddressChannels: "[::]:6001"}}
	first, err := Meet(options)
	if err != nil {
		t.Fatal(err)
	}
	if first.Kind != Met || first.Hello != nil || first.Self.Addresses[AddressHello] != "10.0.0.5:6001" || len(first.Routes()) > 0 {
		t.Errorf("met %+v", first)
	}
	again, err := Meet(options)
	if err != nil || again.Self.ID != first.Self.ID || again.Self.Incarnation <= first.Self.Incarnation {
		t.Errorf("met again %+v, %v", again, err)
	}
	options.Domain = "not a domain"
	if _, err := Meet(options); !errors.Is(err, ErrInvalidOptions) {
		t.Errorf("a bad domain: %v", err)
	}
}

func TestRefusalVerifier(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := refusalVerifier(time.Second)
	m := Member{Addresses: map[string]string{AddressHello: listener.Addr().String()}}
	if ended(t.Context(), m) {
		t.Error("who listens is dead")
	}
	_ = listener.Close()
	if !ended(t.Context(), m) {
		t.Error("who listens no more is not dead")
	}
}
