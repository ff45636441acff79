package primitives

import (
	"errors"
	"fmt"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

var (
	errQueueNotFound = errors.New("there is no such queue")
	errQueueRemoving = errors.New("the queue is being removed; if that was broken off, remove it again")
	errTooManyQueues = errors.New("there are as many queues as there may be; remove one, or raise primitives.max_queues on all nodes")
)

// queueName names a queue within its namespace.
type queueName struct{ namespace, name string }

// String is the name as it stands in logs.
func (n queueName) String() string { return n.namespace + "/" + n.name }

// queueRecord is what is stored of a queue.
type queueRecord struct {
	QueueSettings
	// Generation tells queues of the same name apart, of which one came after the other was
	// removed: a node that has not heard of that yet must not put a job into the wrong one.
	Generation string `json:"generation"`
	// Removing is set before what is in the queue is removed, and the record after that.
	Removing bool `json:"removing,omitempty"`
}

// stream is the name of a queue in the fabric. A namespace has no underscore and generations
// have one size, so no two share one.
func (r queueRecord) stream(name queueName) string {
	return Name + "_" + name.namespace + "_" + name.name + "_" + r.Generation
}

// generationSize is the size of a generation in characters.
const generationSize = 8

func newGeneration() string { return randomText()[:generationSize] }

// QueueSettings are what the users of a queue may set, in milliseconds and numbers.
type QueueSettings struct {
	VisibilityMS   int64   `json:"visibility_ms"`    // a job whose node dies is delivered again after it; also a lease's length
	MaxJobs        int     `json:"max_jobs"`         // that wait or are on lease
	MaxDead        int     `json:"max_dead"`         // dead letters that are kept, the oldest goes first
	MaxAttempts    int     `json:"max_attempts"`     // a job that failed so often is a dead letter; 0 for no limit
	RetryInitialMS int64   `json:"retry_initial_ms"` // before the second attempt, doubled each time
	RetryMaxMS     int64   `json:"retry_max_ms"`
	RetryElapsedMS int64   `json:"retry_elapsed_ms"` // a job that fails so long after its first attempt is a dead letter
	RetryJitter    float64 `json:"retry_jitter"`     // each wait is varied by up to this share
	MaxLeases      int     `json:"max_leases"`       // jobs on lease on one node
}

// defaultQueue is a new queue that nobody has set up.
func defaultQueue() queueRecord {
	return queueRecord{QueueSettings: defaultSettings, Generation: newGeneration()}
}

// defaultSettings are those of a queue that nobody has set up.
var defaultSettings = QueueSettings{
	VisibilityMS:   30_000,
	MaxJobs:        10_000,
	MaxDead:        1_000,
	MaxAttempts:    5,
	RetryInitialMS: 500,
	RetryMaxMS:     60_000,
	RetryElapsedMS: 3_600_000,
	RetryJitter:    0.1,
	MaxLeases:      256,
}

// Bounds of settings.
const (
	minLease    = 100 * time.Millisecond
	maxLease    = 12 * time.Hour // of a job
	maxRetry    = 30 * 24 * time.Hour
	maxJobs     = 1_000_000
	maxDead     = 100_000
	maxLeases   = 4096
	maxAttempts = 1000
)

// check returns an error that names the setting that cannot be so.
func (s QueueSettings) check() error {
	for _, bound := range []struct {
		name              string
		value, least, max int64
	}{
		{"visibility_ms", s.VisibilityMS, minLease.Milliseconds(), maxLease.Milliseconds()},
		{"max_jobs", int64(s.MaxJobs), 1, maxJobs},
		{"max_dead", int64(s.MaxDead), 1, maxDead},
		{"max_attempts", int64(s.MaxAttempts), 0, maxAttempts},
		{"retry_initial_ms", s.RetryInitialMS, 1, maxRetry.Milliseconds()},
		{"retry_max_ms", s.RetryMaxMS, s.RetryInitialMS, maxRetry.Milliseconds()},
		{"retry_elapsed_ms", s.RetryElapsedMS, 0, maxRetry.Milliseconds()},
		{"max_leases", int64(s.MaxLeases), 1, maxLeases},
	} {
		if bound.value < bound.least || bound.value > bound.max {
			return invalid("%s must be from %d to %d", bound.name, bound.least, bound.max)
		}
	}
	if !(s.RetryJitter >= 0 && s.RetryJitter <= 1) {
		return invalid("retry_jitter must be from 0 to 1")
	}
	return nil
}

// config returns the settings as the fabric has them.
func (s QueueSettings) config(stream string) fabric.QueueConfig {
	return fabric.QueueConfig{
		Name:       stream,
		Visibility: milliseconds(s.VisibilityMS),
		MaxJobs:    s.MaxJobs,
		MaxDead:    s.MaxDead,
		Retry: fabric.RetryPolicy{
			Initial: milliseconds(s.RetryInitialMS),
			Max:     milliseconds(s.RetryMaxMS),
			Elapsed: milliseconds(s.RetryElapsedMS),
			Jitter:  s.RetryJitter,
		},
		Concurrency: s.MaxLeases,
	}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// checkQueueName returns an error when name cannot be that of a queue.
func checkQueueName(name string) error {
	if !queuePattern.MatchString(name) {
		return invalid("the name of a queue must be 1 to 64 letters, digits, - and _")
	}
	return nil
}

// Kinds of what a node holds for clients, as the owner of a holding begins.
const (
	kindQueue  = "queue"
	kindLock   = "lock"
	kindWorker = "worker"
)

func ownerOf(kind, namespace, name string) string {
	return fmt.Sprintf("%s %s/%s", kind, namespace, name)
}
