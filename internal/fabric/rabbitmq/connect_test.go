package rabbitmq

import (
	"errors"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

func TestBrokers(t *testing.T) {
	brokers, err := parseBrokers([]string{"amqp://u:p@one:1234/v", "amqps://[::1]", "amqp://"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range brokers {
		got = append(got, b.address)
	}
	if text := strings.Join(got, " "); text != "one:1234 [::1]:5671 localhost:5672" {
		t.Errorf("got %s", text)
	}
	for _, bad := range []string{
		"", "http://u:secret@host", "amqp://u:secret@host:port", "amqp://u:secret@host?heartbeat=x",
		"amqp://u:sec ret@host", "amqp://u:secret%zz@host", "host:5672",
	} {
		_, err := parseBrokers([]string{"amqp://localhost", bad})
		if !errors.Is(err, fabric.ErrInvalidConfig) || strings.Contains(err.Error(), "secret") ||
			!strings.Contains(err.Error(), "number 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := parseBrokers(nil); !errors.Is(err, fabric.ErrInvalidConfig) {
		t.Errorf("no URL: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for version, ok := range map[string]bool{
		"3.9.29": false, "2.8.1": false, "3.10.0": true, "3.13.7": true, "4.0.5": true, "4.2.0-rc.1": true,
		"": true, "x.y": true,
	} {
		err := checkVersion(amqp.Table{"version": version})
		if ok != (err == nil) || err != nil && !errors.Is(err, fabric.ErrUnsupported) {
			t.Errorf("%q: %v", version, err)
		}
	}
}
