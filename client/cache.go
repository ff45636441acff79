package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Cache keeps values for a while, for all who have a key of its namespace. It may lose values: the
// oldest when it is full. A TTL is rounded up to full seconds; 0 keeps a value until it is pushed
// out. Keys are any text of 1 to 200 bytes, values up to 512 KiB.
type Cache struct{ client *Client }

// Cache returns the cache.
func (c *Client) Cache() Cache { return Cache{c} }

func cachePath(key string) string { return "/cache/" + url.PathEscape(key) }

// Get returns a value, or ErrNotFound.
func (c Cache) Get(ctx context.Context, key string) (value []byte, err error) {
	err = c.client.do(ctx, request{method: http.MethodGet, path: cachePath(key), answer: &value})
	return value, err
}

// bytesText is a value in JSON.
type bytesText struct {
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func (b bytesText) bytes() []byte {
	if b.Value != nil {
		return []byte(*b.Value)
	}
	return b.ValueBase64
}

// GetMany returns the values of those keys, up to 100, that have one.
func (c Cache) GetMany(ctx context.Context, keys ...string) (map[string][]byte, error) {
	var answer struct{ Values map[string]bytesText }
	err := c.client.do(ctx, request{
		method: http.MethodPost, path: "/cache", body: map[string]any{"keys": keys}, answer: &answer,
	})
	values := map[string][]byte{}
	for key, value := range answer.Values {
		values[key] = value.bytes()
	}
	return values, err
}

// Set stores a value.
func (c Cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if value == nil {
		value = []byte{}
	}
	query := url.Values{"ttl_ms": {strconv.FormatInt(milliseconds(ttl), 10)}}
	return c.client.do(ctx, request{method: http.MethodPut, path: cachePath(key), query: query, body: value})
}

// Delete removes a value; there may be none.
func (c Cache) Delete(ctx context.Context, key string) error {
	return c.client.do(ctx, request{method: http.MethodDelete, path: cachePath(key)})
}

// swapBody is the body of a swap; without old there must be no value.
type swapBody struct {
	Old   *[]byte `json:"old_base64,omitempty"`
	Value []byte  `json:"value_base64"`
	TTL   int64   `json:"ttl_ms"`
}

// CompareAndSwap stores value if the current one is old, where nil stands for none; otherwise
// ErrConflict.
func (c Cache) CompareAndSwap(ctx context.Context, key string, old, value []byte, ttl time.Duration) error {
	body := swapBody{Value: append([]byte{}, value...), TTL: milliseconds(ttl)}
	if old != nil {
		body.Old = &old
	}
	return c.client.do(ctx, request{method: http.MethodPost, path: cachePath(key) + "/swap", body: body, once: true})
}

// Add adds delta to a counter and returns the sum. A missing one begins at 0, with the TTL given
// then; that of a later Add has no effect.
func (c Cache) Add(ctx context.Context, key string, delta int64, ttl time.Duration) (int64, error) {
	var answer struct{ Value int64 }
	body := map[string]int64{"delta": delta, "ttl_ms": milliseconds(ttl)}
	err := c.client.do(ctx, request{
		method: http.MethodPost, path: cachePath(key) + "/add", body: body, answer: &answer, once: true,
	})
	return answer.Value, err
}
