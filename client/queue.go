package client

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Queue is a durable queue of jobs, each for one worker, at least once: a worker must bear a
// repetition. A queue is there as soon as it is used.
type Queue struct {
	client *Client
	name   string
}

// Queue returns the queue of that name: 1 to 64 letters, digits, - and _.
func (c *Client) Queue(name string) Queue { return Queue{c, name} }

func (q Queue) path(rest string) string { return "/queues/" + url.PathEscape(q.name) + rest }

// QueueSettings are those of a queue.
type QueueSettings struct {
	Visibility   time.Duration // a job whose node dies comes back after it; also the length of a lease
	MaxJobs      int           // that wait or are on lease
	MaxDead      int           // dead letters that are kept
	MaxAttempts  int           // 0 for no limit
	RetryInitial time.Duration // before the second attempt, doubled each time
	RetryMax     time.Duration
	RetryElapsed time.Duration // a job that fails so long after its first attempt is a dead letter
	RetryJitter  float64       // share by which each wait varies
	MaxLeases    int           // jobs on lease through one node
}

// DefaultQueueSettings are those of a queue that nobody has configured.
func DefaultQueueSettings() QueueSettings {
	return QueueSettings{
		Visibility: 30 * time.Second, MaxJobs: 10_000, MaxDead: 1_000, MaxAttempts: 5, RetryInitial: 500 * time.Millisecond,
		RetryMax: time.Minute, RetryElapsed: time.Hour, RetryJitter: 0.1, MaxLeases: 256,
	}
}

// settingsText is QueueSettings in JSON.
type settingsText struct {
	Visibility   int64   `json:"visibility_ms"`
	MaxJobs      int     `json:"max_jobs"`
	MaxDead      int     `json:"max_dead"`
	MaxAttempts  int     `json:"max_attempts"`
	RetryInitial int64   `json:"retry_initial_ms"`
	RetryMax     int64   `json:"retry_max_ms"`
	RetryElapsed int64   `json:"retry_elapsed_ms"`
	RetryJitter  float64 `json:"retry_jitter"`
	MaxLeases    int     `json:"max_leases"`
}

// Configure creates the queue with these settings, or changes them.
func (q Queue) Configure(ctx context.Context, s QueueSettings) error {
	body := settingsText{
		milliseconds(s.Visibility), s.MaxJobs, s.MaxDead, s.MaxAttempts, milliseconds(s.RetryInitial),
		milliseconds(s.RetryMax), milliseconds(s.RetryElapsed), s.RetryJitter, s.MaxLeases,
	}
	return q.client.do(ctx, request{method: http.MethodPut, path: q.path(""), body: body})
}

// QueueState is how a queue is.
type QueueState struct {
	QueueSettings
	Jobs int // that wait or are on lease
}

// State returns how the queue is, or ErrNotFound.
func (q Queue) State(ctx context.Context) (QueueState, error) {
	var s struct {
		settingsText
		Jobs int `json:"jobs"`
	}
	err := q.client.do(ctx, request{method: http.MethodGet, path: q.path(""), answer: &s})
	return QueueState{QueueSettings{
		duration(s.Visibility), s.MaxJobs, s.MaxDead, s.MaxAttempts, duration(s.RetryInitial), duration(s.RetryMax),
		duration(s.RetryElapsed), s.RetryJitter, s.MaxLeases,
	}, s.Jobs}, err
}

// Remove removes the queue with all that is in it; ErrNotFound if there is none.
func (q Queue) Remove(ctx context.Context) error {
	return q.client.do(ctx, request{method: http.MethodDelete, path: q.path("")})
}

// NewJob is a job to be published.
type NewJob struct {
	// ID is random when it is empty. Two jobs with the same ID within two minutes, or while the
	// first is there, are one: the first.
	ID      string
	Payload []byte        // up to 512 KiB
	Delay   time.Duration // before the first attempt
}

// jobBody is the body of a publication.
type jobBody struct {
	ID      string `json:"id"`
	Payload []byte `json:"payload_base64"`
	Delay   int64  `json:"delay_ms"`
}

// Publish puts a job into the queue and returns its ID. When it returns without an error, the job
// is on the disks of a majority.
func (q Queue) Publish(ctx context.Context, job NewJob) (string, error) {
	if job.ID == "" {
		job.ID = rand.Text() // by which a repetition of the request is known
	}
	body := jobBody{job.ID, append([]byte{}, job.Payload...), milliseconds(job.Delay)}
	return job.ID, q.client.do(ctx, request{method: http.MethodPost, path: q.path("/jobs"), body: body})
}

// LeaseOptions say what is to be leased.
type LeaseOptions struct {
	Max   int           // jobs; 0 is 1, at most 100
	Wait  time.Duration // for the first one, at most a minute
	Lease time.Duration // of each; 0 is the visibility of the queue
	// Key is a key of background work: a node that does not work on it gives no jobs.
	Key string
}

// leaseBody is the body of a lease.
type leaseBody struct {
	Max   int    `json:"max"`
	Wait  int64  `json:"wait_ms"`
	Lease int64  `json:"lease_ms,omitempty"`
	Key   string `json:"key,omitempty"`
}

// Lease is a job that no other worker gets while it lasts.
type Lease struct {
	ID         string
	Payload    []byte
	Attempt    int // 1 at first
	EnqueuedAt time.Time
	Until      time.Time // when the lease runs out, unless Work extends it

	queue Queue
	lease string
}

// jobText is a leased job in JSON.
type jobText struct {
	Lease         string    `json:"lease_id"`
	Length        int64     `json:"lease_ms"`
	ID            string    `json:"id"`
	Payload       *string   `json:"payload"`
	PayloadBase64 []byte    `json:"payload_base64"`
	Attempt       int       `json:"attempt"`
	EnqueuedAt    time.Time `json:"enqueued_at"`
}

// Lease takes jobs; none is no error. A job whose lease runs out counts as failed.
func (q Queue) Lease(ctx context.Context, o LeaseOptions) ([]*Lease, error) {
	var answer struct{ Jobs []jobText }
	begin := time.Now()
	err := q.client.do(ctx, request{
		method: http.MethodPost, path: q.path("/lease"), body: leaseBody{o.Max, milliseconds(o.Wait), milliseconds(o.Lease), o.Key},
		answer: &answer, wait: o.Wait, single: true, // what was leased unheard comes back after its lease
	})
	var leases []*Lease
	for _, job := range answer.Jobs {
		l := &Lease{
			ID: job.ID, Payload: job.PayloadBase64, Attempt: job.Attempt, EnqueuedAt: job.EnqueuedAt,
			Until: begin.Add(duration(job.Length)), queue: q, lease: job.Lease,
		}
		if job.Payload != nil {
			l.Payload = []byte(*job.Payload)
		}
		leases = append(leases, l)
	}
	return leases, err
}

func (l *Lease) post(ctx context.Context, what string, body, answer any) error {
	path := l.queue.path("/leases/" + url.PathEscape(l.lease) + "/" + what)
	return l.queue.client.do(ctx, request{method: http.MethodPost, path: path, body: body, answer: answer})
}

// Ack says that the job was done: it does not come again. ErrLost when the lease was over.
func (l *Lease) Ack(ctx context.Context) error { return l.post(ctx, "ack", nil, nil) }

// nackBody is the body of a nack.
type nackBody struct {
	Reason  string `json:"reason,omitempty"`
	Dead    bool   `json:"dead,omitempty"`
	Release bool   `json:"release,omitempty"`
}

// Nack says that the job was not done: it is tried again, or becomes a dead letter with the reason.
func (l *Lease) Nack(ctx context.Context, reason string) error {
	return l.post(ctx, "nack", nackBody{Reason: reason}, nil)
}

// GiveUp says that the job cannot be done: it becomes a dead letter with the reason.
func (l *Lease) GiveUp(ctx context.Context, reason string) error {
	return l.post(ctx, "nack", nackBody{Reason: reason, Dead: true}, nil)
}

// Release gives the job to another worker, as if it had not been leased.
func (l *Lease) Release(ctx context.Context) error {
	return l.post(ctx, "nack", nackBody{Release: true}, nil)
}

// Extend has the lease last for length from now on; 0 is the visibility of the queue. ErrLost when
// it was over.
func (l *Lease) Extend(ctx context.Context, length time.Duration) error {
	until, err := l.extend(ctx, length)
	if err == nil {
		l.Until = until
	}
	return err
}

// extend is Extend, and returns when the lease runs out.
func (l *Lease) extend(ctx context.Context, length time.Duration) (time.Time, error) {
	var answer struct {
		Length int64 `json:"lease_ms"`
	}
	begin, body := time.Now(), map[string]int64{}
	if length > 0 {
		body["lease_ms"] = milliseconds(length)
	}
	err := l.post(ctx, "extend", body, &answer)
	return begin.Add(duration(answer.Length)), err
}

// DeadLetter is a job that was given up.
type DeadLetter struct {
	ID         string
	Payload    []byte
	Attempts   int
	Reason     string
	EnqueuedAt time.Time
	FailedAt   time.Time
}

// deadText is a dead letter in JSON.
type deadText struct {
	ID            string    `json:"id"`
	Payload       *string   `json:"payload"`
	PayloadBase64 []byte    `json:"payload_base64"`
	Attempts      int       `json:"attempts"`
	Reason        string    `json:"reason"`
	EnqueuedAt    time.Time `json:"enqueued_at"`
	FailedAt      time.Time `json:"failed_at"`
}

// DeadLetters returns up to limit dead letters, oldest first, behind the one with id after (""
// for the start), and the value of after for the next call, "" when there are no more.
func (q Queue) DeadLetters(ctx context.Context, after string, limit int) (letters []DeadLetter, next string, err error) {
	var answer struct {
		DeadLetters []deadText `json:"dead_letters"`
		Next        string     `json:"next"`
	}
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after != "" {
		query.Set("after", after)
	}
	err = q.client.do(ctx, request{method: http.MethodGet, path: q.path("/dead-letters"), query: query, answer: &answer})
	for _, d := range answer.DeadLetters {
		letter := DeadLetter{d.ID, d.PayloadBase64, d.Attempts, d.Reason, d.EnqueuedAt, d.FailedAt}
		if d.Payload != nil {
			letter.Payload = []byte(*d.Payload)
		}
		letters = append(letters, letter)
	}
	return letters, answer.Next, err
}

// Replay puts a dead letter back into the queue, as a new job; ErrNotFound if there is none.
func (q Queue) Replay(ctx context.Context, id string) error {
	path := q.path("/dead-letters/" + url.PathEscape(id) + "/replay")
	return q.client.do(ctx, request{method: http.MethodPost, path: path, once: true})
}

// Discard removes a dead letter; ErrNotFound if there is none.
func (q Queue) Discard(ctx context.Context, id string) error {
	return q.client.do(ctx, request{method: http.MethodDelete, path: q.path("/dead-letters/" + url.PathEscape(id))})
}

// ErrGiveUp marks a failure of a Handler that no retry can mend.
var ErrGiveUp = errors.New("give up")
