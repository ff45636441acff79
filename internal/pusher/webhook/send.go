package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// answerBytesMax is how much of an answer is read, which lets its connection be used again.
const answerBytesMax = 64 << 10

// goneAttempts is the attempt at which a missing app or hook is believed to be deleted.
// Before, it may be so new that this node has not heard of it.
const goneAttempts = 3

// Reasons why an attempt is not made.
var (
	errAppGone  = errors.New("app is gone")
	errHookGone = errors.New("hook is gone")
	errResting  = errors.New("hook does not answer, another attempt is under way")
)

func newClient(options Options) *http.Client {
	return &http.Client{
		Timeout: options.Timeout,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           4 * options.Concurrency,
			MaxIdleConnsPerHost:    options.Concurrency,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: answerBytesMax,
		},
		// A redirect would send the signed body to an address that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}

// deliver is the queue's handler: one attempt to post one batch.
func (e *Emitter) deliver(ctx context.Context, job fabric.Job) error {
	e.sending.Add(1)
	defer e.sending.Add(-1)

	batch, err := decodePayload(job.Payload)
	if err != nil {
		return e.giveUp(err, "", 1)
	}
	app, headers, err := e.target(ctx, batch)
	gone := errors.Is(err, errAppGone) || errors.Is(err, errHookGone)
	if err != nil && (!gone || job.Attempt < goneAttempts) {
		return err
	}
	if gone {
		return e.giveUp(err, batch.AppID, len(batch.Events))
	}
	to := destination{appID: batch.AppID, url: batch.URL}
	if !e.gate.enter(to) {
		return errResting
	}
	result, err := e.post(ctx, app, batch.URL, headers, batch.body())
	if ctx.Err() != nil && result != ResultAccepted {
		e.gate.abandon(to)
		return ctx.Err()
	}
	changed := e.gate.exit(to, result)
	e.metrics.Sent(result, len(batch.Events))
	e.logAttempt(ctx, to, job.Attempt, result, changed, err)
	return err
}

// target returns the batch's app as it is now and the custom headers of its hook.
func (e *Emitter) target(ctx context.Context, batch payload) (*apps.App, http.Header, error) {
	app, err := e.apps.FindByID(ctx, batch.AppID)
	if errors.Is(err, apps.ErrNotFound) {
		return nil, nil, errAppGone
	}
	if err != nil {
		return nil, nil, fmt.Errorf("find app %s: %w", batch.AppID, err)
	}
	headers, found := headersFor(app, batch.URL)
	if !found {
		return nil, nil, errHookGone
	}
	return app, headers, nil
}

// giveUp ends a job that no retry can mend.
func (e *Emitter) giveUp(reason error, appID string, events int) error {
	e.metrics.Sent(ResultGivenUp, events)
	e.log.Warn("webhook given up", "app_id", appID, "error", reason, "events", events)
	return fmt.Errorf("%w: %w", reason, fabric.ErrGiveUp)
}

// logAttempt reports the first failure of a hook and its return loudly, the rest quietly.
func (e *Emitter) logAttempt(
	ctx context.Context, to destination, attempt int, result string, changed bool, err error,
) {
	level, message := slog.LevelDebug, "webhook attempt"
	switch {
	case changed && err != nil:
		level, message = slog.LevelWarn, "webhook fails"
	case changed:
		level, message = slog.LevelInfo, "webhook accepted again"
	}
	e.log.Log(ctx, level, message, "app_id", to.appID, "host", hostOf(to.url),
		"result", result, "attempt", attempt, "error", err)
}

// headersFor returns the custom headers of the app's hooks at that address, the first hook
// winning, and false if the app has no hook there.
func headersFor(app *apps.App, address string) (http.Header, bool) {
	headers := make(http.Header)
	found := false
	for i := range app.Webhooks {
		hook := &app.Webhooks[i]
		if hook.URL != address {
			continue
		}
		found = true
		for name, value := range hook.Headers {
			if headers.Get(name) == "" {
				headers.Set(name, value)
			}
		}
	}
	return headers, found
}

// post sends one signed request and drains its answer. The error says why the result is
// not ResultAccepted; it quotes neither the address, which may hold a token, nor the body.
func (e *Emitter) post(
	ctx context.Context, app *apps.App, address string, headers http.Header, body []byte,
) (result string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return ResultUnreachable, fmt.Errorf("post webhook: %w", withoutURL(err))
	}
	request.Header = headers
	if request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", "Parley")
	}
	// Set last, so that no custom header stands in their place.
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Pusher-Key", app.Key)
	request.Header.Set("X-Pusher-Signature", protocol.Sign(app.Secret, string(body)))

	answer, err := e.client.Do(request)
	if err != nil {
		return ResultUnreachable, fmt.Errorf("post webhook to %s: %w", request.URL.Host, withoutURL(err))
	}
	defer func() { _ = answer.Body.Close() }()
	// The status decides; a body that breaks off changes nothing.
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, answerBytesMax))
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return ResultRefused, fmt.Errorf("post webhook to %s: status %d", request.URL.Host, answer.StatusCode)
	}
	return ResultAccepted, nil
}

// withoutURL takes the address out of an error of package net/http.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// hostOf returns the host of an address, or "" if it has none.
func hostOf(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Host
}
