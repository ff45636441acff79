package hook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// request is what is sent to the application once.
type request struct {
	delivery  string // the same for all tries
	event     string
	body      []byte // JSON
	signature string // of the body; empty for none
}

// sender is a way to the application.
type sender interface {
	// send returns nil when the application has taken the request. It is called concurrently.
	send(ctx context.Context, r request) error
	// close drops what is open.
	close() error
}

// SignatureHeader has the HMAC-SHA256 of the body in hex, DeliveryHeader what is the same for all tries.
// Over gRPC they are metadata.
const (
	SignatureHeader = "X-Parley-Signature"
	DeliveryHeader  = "X-Parley-Delivery"
)

// Sign returns the signature of a body.
func Sign(secret string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// maxAnswer is how much of an answer is read, so that its connection can be used again.
const maxAnswer = 64 << 10

// httpSender posts to a URL. An answer with 200 has taken the request.
type httpSender struct {
	target *url.URL
	client *http.Client
}

func newHTTPSender(options Options, target string) (*httpSender, error) {
	parsed, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("read the URL of webhooks: %w", err)
	}
	return &httpSender{parsed, &http.Client{
		Timeout:       options.Timeout,
		Transport:     http.DefaultTransport.(*http.Transport).Clone(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func (s *httpSender) send(ctx context.Context, r request) error {
	target := *s.target
	query := target.Query()
	query.Set("event", r.event)
	target.RawQuery = query.Encode()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	post.Header.Set("Content-Type", "application/json")
	post.Header.Set(DeliveryHeader, r.delivery)
	if r.signature != "" {
		post.Header.Set(SignatureHeader, r.signature)
	}
	response, err := s.client.Do(post)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the application answered %s", response.Status)
	}
	return nil
}

func (s *httpSender) close() error {
	s.client.CloseIdleConnections()
	return nil
}
