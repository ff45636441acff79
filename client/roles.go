package client

import (
	"context"
	"net/http"
	"net/url"
)

// Roles is what a node does, by its node.roles or node.worker_mode.
type Roles struct {
	Roles          []string        `json:"roles"` // empty for all
	ServesRequests bool            `json:"serves_requests"`
	Works          map[string]bool `json:"works"` // by the keys of background work asked for
}

// Roles asks what the node does, which is of use with one endpoint: the node beside the
// application.
func (c *Client) Roles(ctx context.Context, keys ...string) (Roles, error) {
	var answer Roles
	err := c.do(ctx, request{method: http.MethodGet, path: "/roles", query: url.Values{"key": keys}, answer: &answer})
	return answer, err
}
