package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// drainDelay is how long a drained node serves on. The balancer has noticed by then.
	drainDelay = time.Second
	// askTimeout bounds a call of a node's admin API, maxAnswer its answer in bytes.
	askTimeout = 5 * time.Second
	maxAnswer  = 64 << 10
)

// rotate has a node leave the rotation ("drain") or come back ("undrain"). Its answer is told when
// it comes.
func (c *cluster) rotate(node *process, what string) {
	node.draining = what == "drain"
	body := []byte("{}")
	if node.draining {
		body = fmt.Appendf(nil, `{"delay_ms": %d}`, drainDelay.Milliseconds())
	}
	url := "http://" + c.setup.nodeAddress(node.number) + "/admin/v1/cluster/" + what
	c.asking.Go(func() {
		name, was, err := c.ask(url, body)
		switch {
		case err != nil:
			c.out.say("%s node%d: %v", what, node.number, err)
		case what == "undrain" && was != "draining":
			c.out.say("%s was not draining", name)
		case what == "undrain":
			c.out.say("%s is back in the rotation", name)
		default:
			c.out.say("%s is draining", name)
		}
	})
}

// ask posts to a node's admin API and returns which node that was, and its state until then.
func (c *cluster) ask(url string, body []byte) (name, was string, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", "", err
	}
	request.Header.Set("Authorization", "Bearer "+c.setup.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", "", fmt.Errorf("read the answer: %w", err)
	}
	var answer struct{ Name, Was, Error string }
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", "", fmt.Errorf("%s: %w", response.Status, err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return "", "", fmt.Errorf("%s: %s", response.Status, answer.Error)
	}
	return answer.Name, answer.Was, nil
}
