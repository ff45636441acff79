package admin

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Keys keeps the keys of the primitives; the composition root has it.
type Keys interface {
	// ListKeys returns all keys, without tokens.
	ListKeys() []KeyView
	// CreateKey stores a key and returns it with its token, which cannot be read again. Errors:
	// ErrKeyInvalid, ErrKeyExists.
	CreateKey(ctx context.Context, key NewKey) (KeyView, error)
	// RevokeKey removes a key. Errors: ErrNoKey, ErrKeyStatic.
	RevokeKey(ctx context.Context, id string) error
}

// Errors of Keys. The errors that wrap them say more.
var (
	// ErrNoKey says that there is no key with that id.
	ErrNoKey = errors.New("no such key")
	// ErrKeyExists says that another key has that id, or that there are as many as there may be.
	ErrKeyExists = errors.New("the key cannot be added")
	// ErrKeyStatic says that the key is one of the configuration file.
	ErrKeyStatic = errors.New("the key is defined in the configuration file")
	// ErrKeyInvalid says that a key cannot be as asked for.
	ErrKeyInvalid = errors.New("the key cannot be made")
)

// NewKey is the body of POST keys. A key without an id gets one.
type NewKey struct {
	ID                string   `json:"id,omitempty"`
	Namespace         string   `json:"namespace"`
	Scopes            []string `json:"scopes"`
	RequestsPerSecond int      `json:"requests_per_second,omitempty"`
}

// KeyView is a key as the API shows it.
type KeyView struct {
	NewKey
	Static    bool      `json:"static"`
	CreatedAt time.Time `json:"created_at,omitzero"` // not of a static one
	Token     string    `json:"token,omitempty"`     // of a new one alone
}

// KeyList is the answer to GET keys.
type KeyList struct {
	Keys []KeyView `json:"keys"`
}

// WithKeys adds the paths about keys of the primitives.
func (h *Handler) WithKeys(keys Keys) *Handler {
	h.route("keys", methods{
		http.MethodGet:  func(*http.Request) (int, any, error) { return http.StatusOK, KeyList{keys.ListKeys()}, nil },
		http.MethodPost: h.stored(func(r *http.Request) (int, any, error) { return h.createKey(r, keys) }),
	})
	h.route("keys/{id}", methods{
		http.MethodDelete: h.stored(func(r *http.Request) (int, any, error) { return h.revokeKey(r, keys) }),
	})
	return h
}

// createKey answers POST keys.
func (h *Handler) createKey(r *http.Request, keys Keys) (int, any, error) {
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	var key NewKey
	if err := decodeStrictly(body, &key); err != nil {
		return 0, nil, err
	}
	created, err := keys.CreateKey(r.Context(), key)
	if err != nil {
		return 0, nil, err
	}
	h.log.Info("key created", "key_id", created.ID, "namespace", created.Namespace)
	return http.StatusCreated, created, nil
}

// revokeKey answers DELETE keys/{id}.
func (h *Handler) revokeKey(r *http.Request, keys Keys) (int, any, error) {
	id := r.PathValue("id")
	if err := keys.RevokeKey(r.Context(), id); err != nil {
		return 0, nil, err
	}
	h.log.Info("key revoked", "key_id", id)
	return http.StatusNoContent, nil, nil
}
