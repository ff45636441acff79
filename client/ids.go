package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// The layout of an id: seconds since epoch, worker, sequence.
const (
	epoch        = 1605024000
	workerShift  = 16
	secondsShift = 21
	perSecond    = 1 << 16
)

// NewIDs returns up to 1,000 new ids: whole numbers of 53 bits, unique in the namespace and each
// greater than the one before.
func (c *Client) NewIDs(ctx context.Context, count int) ([]int64, error) {
	var answer struct{ IDs []int64 }
	query := url.Values{"count": {strconv.Itoa(count)}}
	err := c.do(ctx, request{method: http.MethodGet, path: "/ids", query: query, answer: &answer})
	return answer.IDs, err
}

// IDTime returns when an id was made, to the second.
func IDTime(id int64) time.Time { return time.Unix(id>>secondsShift+epoch, 0) }

// Worker makes ids in this process, with a worker id that no other process of the namespace has.
// It is kept until Release, and safe for concurrent use.
type Worker struct {
	client *Client
	number int
	id     string
	held   context.Context
	stop   func() error

	mu       sync.Mutex // guards the following fields
	first    int64      // second that may be used
	last     int64      // second that may be used
	second   int64      // of the last id
	sequence int64      // of the next id within it
}

// secondsText tells what a holder of a worker id may use.
type secondsText struct {
	TTL       int64 `json:"ttl_ms"`
	NotBefore int64 `json:"not_before"`
	NotAfter  int64 `json:"not_after"`
}

// workerText is a held worker id in JSON.
type workerText struct {
	Worker int    `json:"worker"`
	ID     string `json:"lease_id"`
	secondsText
}

// Worker takes the lowest worker id that is free, from 0 to 31; ErrNoWorker when none is. Should
// this process die it is free after ttl; 0 is 30 s.
func (c *Client) Worker(ctx context.Context, ttl time.Duration) (*Worker, error) {
	if ttl == 0 {
		ttl = defaultTTL
	}
	var answer workerText
	begin := time.Now()
	err := c.do(ctx, request{
		method: http.MethodPost, path: "/ids/workers", body: map[string]int64{"ttl_ms": milliseconds(ttl)}, answer: &answer, once: true,
	})
	if err != nil {
		return nil, err
	}
	w := &Worker{client: c, number: answer.Worker, id: answer.ID, first: answer.NotBefore, last: answer.NotAfter}
	w.held, w.stop = keep(ctx, begin.Add(duration(answer.TTL)), func(ctx context.Context) (time.Time, error) {
		var extended secondsText
		begin := time.Now()
		err := c.do(ctx, request{
			method: http.MethodPost, path: w.path("extend"), answer: &extended,
			body: map[string]any{"lease_id": w.id, "ttl_ms": milliseconds(ttl)},
		})
		if err == nil {
			w.mu.Lock()
			w.first, w.last = extended.NotBefore, extended.NotAfter
			w.mu.Unlock()
		}
		return begin.Add(duration(extended.TTL)), err
	})
	return w, nil
}

func (w *Worker) path(what string) string {
	return "/ids/workers/" + strconv.Itoa(w.number) + "/" + what
}

// Number is the worker id.
func (w *Worker) Number() int { return w.number }

// Context ends when the worker id is not certainly held any more, with a cause that wraps ErrLost,
// and with the context given to Client.Worker.
func (w *Worker) Context() context.Context { return w.held }

// errNoSecond says that all ids are made that a worker may make now.
var errNoSecond = errors.New("all ids are made that may be made at the moment")

// NewID returns a new id, greater than the one before. It fails when the worker id is lost, or
// when all are made that may be made at the moment: 65,536 for each second that the node gave.
// The clock of this process need not be right.
func (w *Worker) NewID() (int64, error) {
	if w.held.Err() != nil {
		return 0, context.Cause(w.held)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := min(max(time.Now().Unix(), w.first), w.last); now > w.second {
		w.second, w.sequence = now, 0
	}
	if w.sequence == perSecond {
		if w.second == w.last {
			return 0, errNoSecond
		}
		w.second, w.sequence = w.second+1, 0
	}
	id := (w.second-epoch)<<secondsShift | int64(w.number)<<workerShift | w.sequence
	w.sequence++
	return id, nil
}

// Release gives the worker id back; ErrLost when it was lost before.
func (w *Worker) Release(ctx context.Context) error {
	if err := w.stop(); err != nil {
		return err
	}
	w.mu.Lock()
	last := w.second
	w.last = min(w.last, last) // none is made any more
	w.sequence = perSecond
	w.mu.Unlock()
	return w.client.do(ctx, request{
		method: http.MethodPost, path: w.path("release"), body: map[string]any{"lease_id": w.id, "last_second": last},
	})
}
