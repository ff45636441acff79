package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
)

// keyring keeps one key of the file, and those that are made.
type keyring struct{ made []KeyView }

func (k *keyring) ListKeys() []KeyView {
	return append([]KeyView{{NewKey: NewKey{ID: "file", Namespace: "n", Scopes: []string{"*"}}, Static: true}}, k.made...)
}

func (k *keyring) CreateKey(_ context.Context, key NewKey) (KeyView, error) {
	switch key.ID {
	case "file":
		return KeyView{}, fmt.Errorf("%w: file", ErrKeyExists)
	case "bad id":
		return KeyView{}, fmt.Errorf("%w: the id", ErrKeyInvalid)
	}
	k.made = append(k.made, KeyView{NewKey: key})
	return KeyView{NewKey: key, Token: "the-token"}, nil
}

func (k *keyring) RevokeKey(_ context.Context, id string) error {
	switch {
	case id == "file":
		return fmt.Errorf("%w: file", ErrKeyStatic)
	case len(k.made) == 0 || k.made[0].ID != id:
		return fmt.Errorf("%w: %s", ErrNoKey, id)
	}
	k.made = nil
	return nil
}

func TestKeys(t *testing.T) {
	server := httptest.NewServer(New(nil, nil, token, slog.New(slog.DiscardHandler)).WithKeys(&keyring{}))
	t.Cleanup(server.Close)
	client := &Client{Server: server.URL, Token: token}
	ctx := t.Context()
	created, err := client.CreateKey(ctx, NewKey{ID: "a/b", Namespace: "n", Scopes: []string{"cache"}, RequestsPerSecond: 5})
	if err != nil || created.Token != "the-token" || created.ID != "a/b" || created.RequestsPerSecond != 5 {
		t.Errorf("created %+v, %v", created, err)
	}
	list, err := client.ListKeys(ctx)
	if err != nil || len(list) != 2 || !list[0].Static || list[1].ID != "a/b" || list[1].Token != "" {
		t.Errorf("listed %+v, %v", list, err)
	}
	fails := func(what string, err error, code string) {
		t.Helper()
		var failure *Failure
		if !errors.As(err, &failure) || failure.Code != code {
			t.Errorf("%s: got %v, want %s", what, err, code)
		}
	}
	_, err = client.CreateKey(ctx, NewKey{ID: "file"})
	fails("one that is there", err, CodeExists)
	_, err = client.CreateKey(ctx, NewKey{ID: "bad id"})
	fails("a bad one", err, CodeInvalid)
	fails("one of the file", client.RevokeKey(ctx, "file"), CodeStatic)
	fails("none", client.RevokeKey(ctx, "none"), CodeNotFound)
	if err := client.RevokeKey(ctx, "a/b"); err != nil {
		t.Error(err)
	}
	fails("one that is gone", client.RevokeKey(ctx, "a/b"), CodeNotFound)
}
