// Package fabric declares the ports through which Parley shares state: small interfaces
// whose contracts stand here in prose and in fabrictest as a suite that every driver
// passes. Drivers live beside it, one package each.
//
// It must import nothing of Parley: every other room may depend on it.
package fabric

import (
	"context"
	"errors"
	"time"
)

// Sentinel errors of all drivers. Callers match them with errors.Is.
var (
	// ErrNotFound says that the key or id does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the revision given is not the current one.
	ErrConflict = errors.New("revision conflict")
	// ErrTooLarge says that a value is over MaxValueSize.
	ErrTooLarge = errors.New("value too large")
	// ErrInvalidKey says that a key is empty, over 255 bytes or has a character that is not
	// an ASCII letter, a digit or one of - _ = . / (and no dot at either end and no two
	// dots together), or that a job's ID is over 255 bytes or not UTF-8.
	ErrInvalidKey = errors.New("invalid key")
	// ErrInvalidConfig says that a name or a part of a QueueConfig cannot be used.
	ErrInvalidConfig = errors.New("invalid configuration")
	// ErrFull says that a bounded queue holds as many jobs as it may.
	ErrFull = errors.New("full")
	// ErrClosed says that the driver was closed.
	ErrClosed = errors.New("closed")
	// ErrUnavailable says that the store has no majority or no connection at the moment. The
	// operation may have happened; a later try may succeed.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnsupported says that a driver, or the version of the server that it found, cannot
	// carry what was asked for. Another try is of no use.
	ErrUnsupported = errors.New("not supported")
)

// Limits that hold for every driver.
const (
	// MaxValueSize is the size in bytes that every driver carries in one value or job.
	MaxValueSize = 512 << 10
	// MaxKeySize is the size in bytes of the longest key, name and job ID.
	MaxKeySize = 255
	// MaxReasonSize is the size in bytes to which the reason of a dead letter is cut.
	MaxReasonSize = 1 << 10
	// MaxDeadLettersPage is the most dead letters that one call lists.
	MaxDeadLettersPage = 1000
	// MaxWrites is how many keys one Commit changes.
	MaxWrites = 500
	// MaxCommitSize is the size in bytes of all values of one Commit together.
	MaxCommitSize = 1 << 20
	// DedupWindow is how long a queue remembers the ID of a job after Enqueue.
	DedupWindow = 2 * time.Minute
)

// Document is one value of Documents with the revision it was read at.
type Document struct {
	Key      string
	Value    []byte
	Revision uint64 // positive, grows with each change of the key
}

// Change is one step of a watch. A deletion has a nil Value, an existing document never. The
// revision of a deletion orders it among the changes; to write the key again use 0.
type Change struct {
	Document
	Deleted bool
}

// Write is one part of a Commit.
type Write struct {
	Key      string
	Value    []byte // nil removes the key
	Revision uint64 // that must be the current one; 0 if the key must not exist
}

// Documents keeps small durable values by key. A write that returned nil survives the end
// of the process (and, replicated, the loss of a minority of nodes). A read may be stale
// by a moment on another node, never on the one that wrote.
type Documents interface {
	// Get returns the current document, or ErrNotFound.
	Get(ctx context.Context, key string) (Document, error)
	// Put stores value if revision is the current one and returns the new revision.
	// Revision 0 means that the key must not exist. Otherwise ErrConflict.
	Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes the key if revision is the current one; ErrConflict if it is another,
	// ErrNotFound if there is none.
	Delete(ctx context.Context, key string, revision uint64) error
	// Commit makes all writes or none, in their order and with nothing between them, and
	// returns the revision that each led to. It returns ErrConflict if one of the keys is not
	// at its revision (also to remove one that is not there), ErrTooLarge beyond MaxWrites,
	// MaxValueSize or MaxCommitSize, and ErrInvalidKey if a key comes twice. No writes are no
	// error. After another error the writes may have been made, or may still be.
	Commit(ctx context.Context, writes []Write) ([]uint64, error)
	// List returns all documents in the order of their keys.
	List(ctx context.Context) ([]Document, error)
	// Watch calls changed for every existing document, then ready once, then changed for
	// every later change in order, one call at a time, until ctx ends, which is not an
	// error. A change made by this process is seen as well. A change that a later one of
	// the same key overtook may be left out; the last one of a key never is.
	Watch(ctx context.Context, changed func(Change), ready func()) error
}

// Job is one unit of work in a Queue.
type Job struct {
	// ID is set by Enqueue when it is empty; any UTF-8 up to 255 bytes. Two jobs with the
	// same ID enqueued within two minutes, or while the first waits or is being worked on,
	// are one job: the first.
	ID string
	// Payload is opaque, at most MaxValueSize bytes.
	Payload []byte
	// NotBefore delays the first attempt; zero is now.
	NotBefore time.Time

	// Attempt is 1 at the first delivery and grows with each failure; a delivery that did
	// not end in a failure does not count. Set by the queue.
	Attempt int
	// EnqueuedAt is when Enqueue was called. Set by the queue.
	EnqueuedAt time.Time
}

// DeadLetter is a job that was given up. There is one per job ID: the latest.
type DeadLetter struct {
	Job
	Reason   string    // the last error's text, at most MaxReasonSize bytes of it
	FailedAt time.Time // when it was given up
}

// RetryPolicy says when a failed job is tried again.
type RetryPolicy struct {
	Initial time.Duration // wait after the first failure, doubled each time
	Max     time.Duration // longest wait between two attempts
	Elapsed time.Duration // measured from the first attempt; later failures give up
	Jitter  float64       // each wait is varied by up to this share, 0 to 1
}

// QueueConfig configures a queue; the driver takes it when it opens the queue. All numbers
// must be positive, but for those of Retry when nothing is to be tried again.
type QueueConfig struct {
	Name        string        // letters, digits, - and _
	Visibility  time.Duration // a job whose worker dies is delivered again after it
	MaxJobs     int           // jobs kept; Enqueue beyond it returns ErrFull
	MaxDead     int           // dead letters kept; the oldest goes first
	Retry       RetryPolicy
	Concurrency int // handlers that run at once in one Work call
	// Idle says whether this process wants work; nil is always. A Work call takes no job while
	// it says no, and asks again after IdleInterval; jobs that run are not touched. It is
	// called before each job, from one goroutine of each Work call, and must not wait.
	Idle func() bool
	// Wake has a Work call that waits for Idle to say yes ask again at once for each value in
	// it; nil when IdleInterval is soon enough. Of several Work calls one asks.
	Wake <-chan struct{}
	// Taken is told of each job that a Work call takes, in the order in which it takes them: from
	// the goroutine that calls Idle, before that is called again, and before the handler is. What
	// it returns is called if the handler is not called after all. Both may be nil, and must not
	// wait.
	Taken func(Job) (missed func())
	// Settled is told of each attempt when what came of it is stored: nil, or why that is not
	// known, and then the job may be delivered again. It is given the job as the handler was;
	// nil for nobody. It must not wait.
	Settled func(Job, error)
	// Dead is told of each job that this queue's workers gave up, after it is a dead letter;
	// nil for nobody. It must not wait.
	Dead func(DeadLetter)
}

// Handler does one job. An error has the job retried by the policy; an error that wraps
// ErrGiveUp sends it to the dead letters at once, and one that wraps ErrPutBack has it
// delivered again at once. The context ends when the worker stops; the queue keeps the job
// invisible to others for as long as the handler runs.
type Handler func(ctx context.Context, job Job) error

// ErrGiveUp marks a failure that no retry can mend.
var ErrGiveUp = errors.New("give up")

// ErrPutBack marks an attempt that was none: the handler had no use for the job, which is
// delivered again at once, to any worker, and does not count as failed.
var ErrPutBack = errors.New("put back")

// Queue is a durable work queue. Jobs start in the order of Enqueue, one with a NotBefore
// when that has come, a failed one when its wait is over; with a Concurrency over 1 or
// several workers the order is near, not exact. Delivery is at least once: a handler must
// bear a repetition, also beside the first when its worker lost touch with the queue.
type Queue interface {
	// Enqueue stores the job durably before it returns its id.
	Enqueue(ctx context.Context, job Job) (string, error)
	// Work runs handler for jobs until ctx ends, then waits for running handlers and
	// returns nil. A job whose handler returned an error after ctx ended is delivered again
	// and does not count as failed, unless the error wraps ErrGiveUp. Several calls may
	// run at once, here and in other processes.
	Work(ctx context.Context, handler Handler) error
	// Len returns how many jobs wait or are being worked on.
	Len(ctx context.Context) (int, error)
	// DeadLetters returns up to limit dead letters, oldest first, that come after the one
	// with id after ("" for the start); ErrNotFound if that one is gone. A call returns at
	// most MaxDeadLettersPage.
	DeadLetters(ctx context.Context, after string, limit int) ([]DeadLetter, error)
	// Replay puts a dead letter back into the queue as a new first attempt and removes it
	// from the dead letters; ErrNotFound if there is none, ErrFull if the queue is full, and
	// then the dead letter stays.
	Replay(ctx context.Context, id string) error
	// Discard removes a dead letter; ErrNotFound if there is none.
	Discard(ctx context.Context, id string) error
}

// Carrier is what every driver has, whichever ports it serves.
type Carrier interface {
	// Ping asks the store or broker for an answer and returns when it came. ErrUnavailable when
	// there is none before ctx ends, at the latest after PingTimeout.
	Ping(ctx context.Context) error
	// Close ends the running Work, Watch and Follow calls, subscriptions and renewals of
	// locks, without waiting for them, and releases what the driver holds. A lock that is
	// held then is lost, and free for others after its lease. Parts opened from it return
	// ErrClosed from then on.
	Close() error
}

// PingTimeout bounds a Ping.
const PingTimeout = 2 * time.Second

// DocumentsCarrier opens collections of documents.
type DocumentsCarrier interface {
	Carrier
	// Documents opens the collection of that name (letters, digits, - and _).
	Documents(ctx context.Context, name string) (Documents, error)
}

// QueueCarrier opens queues.
type QueueCarrier interface {
	Carrier
	// Queue opens a queue, creating it when it does not exist.
	Queue(ctx context.Context, config QueueConfig) (Queue, error)
}

// QueueRemover is a QueueCarrier that can remove a queue for good, with its jobs and dead
// letters. Nobody should use the queue meanwhile. Removing one that is not there is no error. The
// IDs of its jobs may be remembered for as long as they would be otherwise.
type QueueRemover interface {
	RemoveQueue(ctx context.Context, name string) error
}

// SignalCarrier opens signals.
type SignalCarrier interface {
	Carrier
	// Signal opens the subjects of that name (letters, digits, - and _). Each call returns
	// another sender with subscriptions of its own.
	Signal(ctx context.Context, name string) (Signal, error)
}

// CacheCarrier opens caches.
type CacheCarrier interface {
	Carrier
	// Cache opens a cache, creating it when it does not exist.
	Cache(ctx context.Context, config CacheConfig) (Cache, error)
}

// LocksCarrier opens locks.
type LocksCarrier interface {
	Carrier
	// Locks opens the locks of that name (letters, digits, - and _).
	Locks(ctx context.Context, name string) (Locks, error)
}

// LogCarrier opens logs.
type LogCarrier interface {
	Carrier
	// Log opens a log, creating it when it does not exist.
	Log(ctx context.Context, config LogConfig) (Log, error)
}

// BlobsCarrier opens collections of blobs.
type BlobsCarrier interface {
	Carrier
	// Blobs opens a collection of blobs, creating it when it does not exist.
	Blobs(ctx context.Context, config BlobConfig) (Blobs, error)
}

// Provider opens the named parts of one driver, or of several that were put together by
// Compose. Opening the same name twice gives the same data. A part that the driver does not
// have gives ErrUnsupported.
type Provider interface {
	DocumentsCarrier
	QueueCarrier
	SignalCarrier
	CacheCarrier
	LocksCarrier
	LogCarrier
	BlobsCarrier
}

// Reasons under which drivers count what is lost, as the reason of DropFunc.
const (
	// DropSignalBacklog: a published message did not fit into what waits to be sent.
	DropSignalBacklog = "signal_backlog"
	// DropSignalOffline: a published message could not be handed to the bus.
	DropSignalOffline = "signal_offline"
	// DropSignalSlow: a received message came faster than the handlers worked.
	DropSignalSlow = "signal_slow_consumer"
	// DropSignalStale: a message came behind a newer one of the same sender.
	DropSignalStale = "signal_stale"
	// DropJobUnreadable: a message in a queue was not written by one.
	DropJobUnreadable = "queue_job_unreadable"
	// DropDeadLetter: a dead letter was pushed out by a newer one.
	DropDeadLetter = "queue_dead_letter_pushed_out"
)

// DropFunc is told of what a driver loses: the reason, one of the Drop constants, the name of the
// signal or queue, and how many. It must not wait.
type DropFunc func(reason, name string, count int)
