package primitives

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotency-Replayed"
	// maxIdempotencyKey is its size in bytes.
	maxIdempotencyKey = 255
	// idempotencyRunning is how long a request that is being done keeps others of its key away,
	// should nobody be able to tell what became of its node. It is over what a request takes.
	idempotencyRunning = 2 * (maxWait + requestTimeout)
)

// dropAnswerLarge counts answers that are too large to be kept for a repetition.
const dropAnswerLarge = "primitives_answer_too_large"

// onceRecord is what is known of a request with an idempotency key.
type onceRecord struct {
	Request string          `json:"request"`          // its hash
	Doing   string          `json:"doing,omitempty"`  // id by which its node knows it; empty when it is done
	Status  int             `json:"status,omitempty"` // of the answer
	Body    json.RawMessage `json:"body,omitempty"`   // of the answer
}

// onceKey is where the record of a request is kept: by key, path and idempotency key.
func onceKey(r *request) string {
	sum := sha256.Sum256([]byte(r.key.ID + "\x00" + r.URL.Path + "\x00" + r.Header.Get(idempotencyHeader)))
	return "i:" + r.key.Namespace + ":" + hex.EncodeToString(sum[:])
}

// hash tells requests of the same key and path apart.
func (r *request) hash() string {
	sum := sha256.Sum256([]byte(r.URL.RawQuery + "\x00" + string(r.body)))
	return hex.EncodeToString(sum[:])
}

// once does a request unless one with the same idempotency key was done, whose answer is given
// then. Only success is kept: what failed may be tried again.
func (s *Server) once(r *request, serve func(*request) (answer, error)) (answer, error) {
	if key := r.Header.Get(idempotencyHeader); len(key) > maxIdempotencyKey {
		return answer{}, invalid("%s may have %d bytes", idempotencyHeader, maxIdempotencyKey)
	}
	cache, err := s.cache.get(r.Context())
	if err != nil {
		return answer{}, err
	}
	mine := onceRecord{Request: r.hash(), Doing: s.newID()}
	s.doing.Store(mine.Doing, nil)
	defer s.doing.Delete(mine.Doing)
	key := onceKey(r)
	earlier, err := s.claim(r.Context(), cache, key, mine)
	if err != nil || earlier != nil {
		return repeat(earlier, err)
	}
	result, err := serve(r)
	s.remember(r, cache, key, mine, result, err)
	return result, err
}

// remember keeps the answer of a request that was done, and makes way for another try of one that
// was not. It does so also when the client is gone.
func (s *Server) remember(r *request, cache fabric.Cache, key string, mine onceRecord, result answer, failed error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), requestTimeout)
	defer cancel()
	text, err := mine.done(result)
	if err == nil && len(text) > fabric.MaxValueSize {
		s.options.Dropped(dropAnswerLarge)
	}
	switch {
	case failed != nil || len(text) > fabric.MaxValueSize:
		err = cache.Delete(ctx, key)
	case err == nil:
		err = cache.Set(ctx, key, text, s.options.IdempotencyWindow)
	}
	if err != nil {
		s.log.Info("what became of an idempotent request is not kept", "error", err)
	}
}

// done returns the record of a request that was done.
func (o onceRecord) done(a answer) ([]byte, error) {
	body, _, err := a.encode()
	if err != nil {
		return nil, err
	}
	o.Doing, o.Status, o.Body = "", a.status, body
	return json.Marshal(o)
}

// repeat answers as before.
func repeat(earlier *onceRecord, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	a := answer{status: earlier.Status, header: http.Header{replayedHeader: {"true"}}}
	if earlier.Body != nil {
		a.body = earlier.Body
	}
	return a, nil
}

// claim stores that the request is being done, or returns the record of the one that was.
func (s *Server) claim(ctx context.Context, cache fabric.Cache, key string, mine onceRecord) (*onceRecord, error) {
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, err
	}
	var old []byte // what is to be replaced
	for range 3 {  // it may have come or gone between two looks
		err := cache.CompareAndSwap(ctx, key, old, text, idempotencyRunning)
		if !errors.Is(err, fabric.ErrConflict) {
			return nil, err
		}
		old, err = cache.Get(ctx, key)
		if errors.Is(err, fabric.ErrNotFound) {
			old = nil
			continue
		}
		if err != nil {
			return nil, err
		}
		var earlier onceRecord
		if err := json.Unmarshal(old, &earlier); err != nil {
			return nil, fmt.Errorf("read what is kept of an idempotent request: %w", err)
		}
		switch {
		case earlier.Request != mine.Request:
			return nil, fail(problemMismatch, "another request with this %s had another body", idempotencyHeader)
		case earlier.Doing == "":
			return &earlier, nil
		case !s.abandoned(ctx, earlier.Doing):
			return nil, fail(problemBusy, "the first request with this %s is being done", idempotencyHeader)
		}
	}
	return nil, fail(problemBusy, "other requests with this %s are being done", idempotencyHeader)
}

// abandoned tells whether nobody does a request any more: its node has ended, or does not know
// of it.
func (s *Server) abandoned(ctx context.Context, id string) bool {
	_, err := s.command(ctx, order{Do: doPing, ID: id})
	return errors.Is(err, errLost)
}

// jobID is the id of a job whose sender gave none: made of the idempotency key if there is one,
// so that the queue itself drops the repetition of a request of which nobody knows whether it was
// done.
func jobID(r *request) string {
	if r.Header.Get(idempotencyHeader) == "" {
		return ""
	}
	return onceKey(r)[len("i:"+r.key.Namespace+":"):]
}
