package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// requestTimeout bounds one request to the engine, whatever its context allows: one that
	// meets a change of leaders or routes is lost and never answered.
	requestTimeout = 5 * time.Second
	// changeTimeout is the same for a request that changes something or begins a copy.
	changeTimeout = 30 * time.Second
)

// apiError is an error of the JetStream API.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error implements error.
func (e *apiError) Error() string {
	return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode)
}

// Codes of the JetStream API.
const (
	codeNoPeers          = 10005
	codeConsumerNotFound = 10014
	codeStreamNotFound   = 10059
	codeNameInUse        = 10130 // by a restore
)

// apiResponse is the part that all answers of the JetStream API have.
type apiResponse struct {
	Error *apiError `json:"error,omitempty"`
}

func (r *apiResponse) failure() error {
	if r.Error == nil {
		return nil
	}
	return r.Error
}

// response is an answer of the JetStream API.
type response interface{ failure() error }

// request asks the JetStream API and decodes the answer, whose error it returns.
func request(ctx context.Context, conn *nats.Conn, subject string, body any, answer response) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return exchange(ctx, conn, subject, body, answer)
}

// change is request for what changes something or takes longer.
func change(ctx context.Context, conn *nats.Conn, subject string, body any, answer response) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	return exchange(ctx, conn, subject, body, answer)
}

func exchange(ctx context.Context, conn *nats.Conn, subject string, body any, answer response) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s: %w", subject, err)
		}
	}
	msg, err := conn.RequestWithContext(ctx, subject, data)
	if err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	if err := json.Unmarshal(msg.Data, answer); err != nil {
		return fmt.Errorf("%s: understand the answer: %w", subject, err)
	}
	if err := answer.failure(); err != nil {
		return fmt.Errorf("%s: %w", subject, err)
	}
	return nil
}

// hasCode says whether err is an error of the JetStream API with the code.
func hasCode(err error, code int) bool {
	var api *apiError
	return errors.As(err, &api) && api.ErrCode == code
}

// internal returns the engine's own connection as the given user.
func (e *Engine) internal(user string) (*nats.Conn, error) {
	e.internalMu.Lock()
	defer e.internalMu.Unlock()
	if conn := e.internals[user]; conn != nil && !conn.IsClosed() {
		return conn, nil
	}
	conn, err := e.connect("engine", user)
	if err != nil {
		return nil, err
	}
	e.internals[user] = conn
	return conn, nil
}
