package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// maxAnswer is the size in bytes of the largest answer that a Client reads.
const maxAnswer = 64 << 20

// Failure is the body of every answer that is not 2xx, and the error that a Client returns
// for it.
type Failure struct {
	Text   string `json:"error"`
	Code   string `json:"code"` // one of the Code constants
	Status int    `json:"-"`    // of the HTTP answer
}

// Error returns the text that the node gave.
func (f *Failure) Error() string { return f.Text }

// UnreachableError says that there was no answer from a node.
type UnreachableError struct {
	Server string
	Err    error
}

// Error says which server gave no answer and why.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", e.Server, e.Err)
}

// Unwrap returns why there was no answer.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Client calls the API of a node. Its methods return a *Failure for an answer that is not
// 2xx and an *UnreachableError when there was none.
type Client struct {
	Server string // scheme, host, port and path prefix, such as http://127.0.0.1:6001
	Token  string
	HTTP   *http.Client // nil for http.DefaultClient
}

// NewApp is the body of CreateApp; what is left out is empty or random, and enabled.
type NewApp struct {
	ID     string `json:"id,omitempty"`
	Name   string `json:"name,omitempty"`
	Key    string `json:"key,omitempty"`
	Secret string `json:"secret,omitempty"`

	EnableClientMessages     bool `json:"enable_client_messages"`
	EnableUserAuthentication bool `json:"enable_user_authentication"`
	EnableWatchlistEvents    bool `json:"enable_watchlist_events"`
	EnableSubscriptionCount  bool `json:"enable_subscription_count"`

	Limits         apps.Limits    `json:"limits"`
	AllowedOrigins []string       `json:"allowed_origins,omitempty"`
	Webhooks       []apps.Webhook `json:"webhooks,omitempty"`
}

// ListApps returns all apps in the order of their ids, without their secrets.
func (c *Client) ListApps(ctx context.Context) ([]AppView, error) {
	all := []AppView{} // and not null in JSON
	for after := ""; ; {
		path := "apps"
		if after != "" {
			path += "?" + url.Values{"after": {after}}.Encode()
		}
		var list AppList
		if err := c.call(ctx, http.MethodGet, path, nil, &list); err != nil {
			return nil, err
		}
		all = append(all, list.Apps...)
		if list.Next <= after {
			return all, nil
		}
		after = list.Next
	}
}

// ShowApp returns an app, with its secrets if they are asked for.
func (c *Client) ShowApp(ctx context.Context, id string, secrets bool) (AppView, error) {
	path := "apps/" + url.PathEscape(id)
	if secrets {
		path += "?secret=1"
	}
	var app AppView
	return app, c.call(ctx, http.MethodGet, path, nil, &app)
}

// CreateApp creates an app and returns it with its secret.
func (c *Client) CreateApp(ctx context.Context, app NewApp) (AppView, error) {
	var created AppView
	return created, c.call(ctx, http.MethodPost, "apps", app, &created)
}

// PatchApp changes the fields of an app that patch has, null for the default.
func (c *Client) PatchApp(ctx context.Context, id string, patch map[string]any) (AppView, error) {
	var app AppView
	return app, c.call(ctx, http.MethodPatch, "apps/"+url.PathEscape(id), patch, &app)
}

// DeleteApp deletes an app.
func (c *Client) DeleteApp(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "apps/"+url.PathEscape(id), nil, nil)
}

// RotateApp gives an app a new secret, and a new key if alsoKey is set, and returns it.
func (c *Client) RotateApp(ctx context.Context, id string, alsoKey bool) (AppView, error) {
	var app AppView
	path := "apps/" + url.PathEscape(id) + "/rotate"
	return app, c.call(ctx, http.MethodPost, path, RotateRequest{Key: alsoKey}, &app)
}

// ListDead returns up to limit dead webhooks, oldest first, that come after the one with id
// after ("" for the start).
func (c *Client) ListDead(ctx context.Context, after string, limit int) (DeadList, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	var list DeadList
	return list, c.call(ctx, http.MethodGet, "webhooks/dead-letters?"+query.Encode(), nil, &list)
}

// ReplayDead puts a dead webhook back into the queue.
func (c *Client) ReplayDead(ctx context.Context, id string) error {
	path := "webhooks/dead-letters/" + url.PathEscape(id) + "/replay"
	return c.call(ctx, http.MethodPost, path, nil, nil)
}

// DiscardDead removes a dead webhook for good.
func (c *Client) DiscardDead(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "webhooks/dead-letters/"+url.PathEscape(id), nil, nil)
}

// ListKeys returns all keys of the primitives, without their tokens.
func (c *Client) ListKeys(ctx context.Context) ([]KeyView, error) {
	var list KeyList
	err := c.call(ctx, http.MethodGet, "keys", nil, &list)
	return list.Keys, err
}

// CreateKey creates a key of the primitives and returns it with its token.
func (c *Client) CreateKey(ctx context.Context, key NewKey) (KeyView, error) {
	var created KeyView
	return created, c.call(ctx, http.MethodPost, "keys", key, &created)
}

// RevokeKey removes a key of the primitives.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "keys/"+url.PathEscape(id), nil, nil)
}

// call does one request and decodes the answer into answer unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, body, answer any) error {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	address := strings.TrimRight(c.Server, "/") + PathPrefix + path
	request, err := http.NewRequestWithContext(ctx, method, address, reader)
	if err != nil {
		return fmt.Errorf("address %s: %w", c.Server, err)
	}
	request.Header.Set("Authorization", "Bearer "+c.Token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		var wrapped *url.Error // its text has the whole address, which Server has already
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return &UnreachableError{Server: c.Server, Err: err}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return &UnreachableError{Server: c.Server, Err: err}
	}
	return decodeAnswer(response, text, answer)
}

func decodeAnswer(response *http.Response, text []byte, answer any) error {
	if response.StatusCode/100 != 2 {
		failure := Failure{Status: response.StatusCode}
		if json.Unmarshal(text, &failure) != nil || failure.Code == "" {
			failure.Text = "the answer was " + response.Status + ", which is not one of Parley's admin API"
		}
		return &failure
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	return nil
}
