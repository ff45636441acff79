package nats_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/nats"
)

// startServer returns the URL of a server as somebody else runs it: on a port, and for those
// only who know the password.
func startServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, Username: "parley", Password: "p:ss/word",
		JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

// TestRemoteContract runs over a server that is reached by its URL.
func TestRemoteContract(t *testing.T) {
	url := startServer(t)
	fabrictest.RunShared(t, func(t *testing.T) fabric.Provider {
		p, err := nats.Connect(context.Background(), nats.Server{
			URLs: []string{"nats://127.0.0.1:1", url}, User: "parley", Password: "p:ss/word",
		}, nats.Options{Logger: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
}

func TestConnect(t *testing.T) {
	ctx := context.Background()
	url := startServer(t)
	options := nats.Options{Logger: slog.New(slog.DiscardHandler)}
	inURL := strings.Replace(url, "nats://", "nats://parley:p%3Ass%2Fword@", 1)
	p, err := nats.Connect(ctx, nats.Server{URLs: []string{inURL}}, options)
	if err != nil {
		t.Fatalf("password in the URL: %v", err)
	}
	if _, err := p.Documents(ctx, "d"); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for what, server := range map[string]nats.Server{
		"no url":              {},
		"no password":         {URLs: []string{url}},
		"wrong password":      {URLs: []string{url}, User: "parley", Password: "secret"},
		"wrong token":         {URLs: []string{url}, Token: "secret"},
		"missing key":         {URLs: []string{url}, NKeyFile: "missing"},
		"missing credentials": {URLs: []string{url}, CredentialsFile: "missing"},
	} {
		_, err := nats.Connect(ctx, server, options)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
	brief, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var log bytes.Buffer
	options.Logger = slog.New(slog.NewTextHandler(&log, nil))
	_, err = nats.Connect(brief, nats.Server{URLs: []string{"nats://u:secret@127.0.0.1:1", "secret@127.0.0.1:2"}}, options)
	if !errors.Is(err, fabric.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: %v", err)
	}
	if text := log.String(); !strings.Contains(text, `servers="[127.0.0.1:1 127.0.0.1:2]"`) || strings.Contains(text, "secret") {
		t.Errorf("it logs %s", text)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := nats.Connect(ended, nats.Server{URLs: []string{inURL}}, options); err == nil {
		t.Error("connected with an ended context")
	}
}
