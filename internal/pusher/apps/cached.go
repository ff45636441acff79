package apps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/parleyio/parley/internal/fabric"
)

// Table is what NewCached needs of a database that has one app a row; package appsql has it. Its
// errors wrap ErrNotFound, ErrExists, ErrInvalid, ErrRefused, ErrUnreadable or ErrConflict; any
// other says that the database did not do it for a reason of its own.
type Table interface {
	// Ping tells whether the database answers and has the table.
	Ping(ctx context.Context) error
	// ByIDs returns the rows of those of the apps that exist, in any order.
	ByIDs(ctx context.Context, ids []string) ([]Row, error)
	// ByKey returns the row of the app with that key, of several that with the smallest id.
	ByKey(ctx context.Context, key string) (Row, error)
	// List returns the rows with ids after the given one, in their order and at most limit.
	List(ctx context.Context, after string, limit int) ([]Row, error)
	// Create adds an app.
	Create(ctx context.Context, app *App) error
	// Update has change alter a copy of the app and stores that, with nobody in between. It
	// returns what it stored.
	Update(ctx context.Context, id string, change func(*App) error) (*App, error)
	// Delete removes an app.
	Delete(ctx context.Context, id string) error
}

// Row is one row of a Table.
type Row struct {
	ID   string
	App  *App     // nil if the row cannot be understood
	Left []string // parts of the row that have no effect, because Parley cannot do such a thing
	Err  error    // why there is no app; wraps ErrUnreadable
}

// SignalName is the name of the signal by which nodes tell each other of changed apps.
const SignalName = "apps"

// subjectChanged is in front of the token of the id of an app that was changed. The payload is
// the id.
const subjectChanged = "changed."

// Reasons under which changes are counted that did not get from node to node. They are seen when
// the apps are read again.
const (
	dropChangeUntold    = "app_change_untold"    // not sent
	dropChangeMalformed = "app_change_malformed" // cannot be read
)

// Results of looking for one app in the table, as given to CacheOptions.Count.
const (
	LookupFound      = "found"
	LookupUnknown    = "unknown"    // there is no such app
	LookupUnreadable = "unreadable" // its row cannot be understood
	LookupFailed     = "failed"     // the database did not answer
	LookupBusy       = "busy"       // too many look-ups were under way
)

// Bounds of a Cached store.
const (
	maxLooks    = 256             // look-ups at a time
	lookTimeout = 5 * time.Second // of one
	lookTries   = 5               // of one that changes overtake
	chunkSize   = 200             // apps that one query reads again
	missTTL     = 10 * time.Second
	maxDue      = 100_000 // apps that wait to be read again
)

// Pauses before the table is asked again after it did not answer.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// CacheOptions configure a Cached store.
type CacheOptions struct {
	// TTL is the longest time until a change that another program made is seen.
	TTL time.Duration
	// Capacity is how many apps are kept in memory beside those in use.
	Capacity int
	// InUse tells whether an app must stay in memory. It must answer at once.
	InUse func(id string) bool
	// Count counts the results of looking for an app in the table.
	Count func(result string)
	// Dropped counts what was lost, by reason.
	Dropped func(reason string)
	Logger  *slog.Logger
}

// Cached is a Store over a table of a database. It keeps the apps in memory that were asked for,
// and reads them again before they are older than TTL: so only the first use of an app waits for
// the database, and while that is away the apps in memory are served as they were. What is
// changed through Parley is told to all nodes by a signal; each reads the app again at once.
type Cached struct {
	table   Table
	signal  fabric.Signal
	options CacheOptions
	log     *slog.Logger
	view    *view
	flights singleflight.Group
	looks   chan struct{} // held by look-ups; all, when the store has ended
	misses  *lru.Cache[lookup, miss]
	wake    chan struct{} // of size 1: something is due

	dueMu sync.Mutex // guards due; nothing else is called while it is held
	due   map[string]struct{}

	mu      sync.Mutex // guards the following fields, and is held while the view is changed
	life    context.Context
	changes uint64               // told so far; what was read before the last one may be old
	read    map[string]time.Time // when each app in memory was last read
	evictAt int                  // apps in memory beyond which some are forgotten
	away    time.Time            // since when the table does not answer; zero if it does
}

// miss says that a look-up found nothing, and why.
type miss struct {
	err error
	at  time.Time
}

// NewCached returns the Store over a table.
func NewCached(table Table, signal fabric.Signal, options CacheOptions) *Cached {
	misses, err := lru.New[lookup, miss](max(1, options.Capacity))
	if err != nil {
		panic(err) // only a size that is not positive is an error
	}
	if options.InUse == nil {
		options.InUse = func(string) bool { return false }
	}
	return &Cached{
		table: table, signal: signal, options: options, log: options.Logger,
		looks: make(chan struct{}, maxLooks), misses: misses, wake: make(chan struct{}, 1),
		due: map[string]struct{}{}, read: map[string]time.Time{}, evictAt: options.Capacity,
	}
}

// CacheState is what a Cached store knows of itself.
type CacheState struct {
	Apps  int  // in memory
	Stale int  // of them, older than TTL because the table does not answer
	Away  bool // the last question was not answered
}

// State returns what the store knows of itself.
func (c *Cached) State() CacheState {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := CacheState{Apps: len(c.read), Away: !c.away.IsZero()}
	for _, at := range c.read {
		if time.Since(at) > c.options.TTL {
			state.Stale++
		}
	}
	return state
}

// Ping asks whether the table answers.
func (c *Cached) Ping(ctx context.Context) error {
	err := c.table.Ping(ctx)
	c.answered(err)
	return err
}

func (c *Cached) attach(v *view) { c.view = v }

// follow listens to what other nodes change and reads apps again.
func (c *Cached) follow(ctx context.Context, ready func()) error {
	heard, err := c.signal.Subscribe(subjectChanged+"*", c.heard, fabric.SkipSelf(), fabric.OnGap(c.missed))
	if err != nil {
		return fmt.Errorf("subscribe to changes of apps: %w", err)
	}
	defer func() { _ = heard.Unsubscribe() }() // fails only when the signal is closed
	c.mu.Lock()
	c.life = ctx
	c.mu.Unlock()
	ready()
	c.refresh(ctx)
	for range cap(c.looks) { // those under way end with ctx, and no others begin
		c.looks <- struct{}{}
	}
	return nil
}

// heard takes what another node tells of an app that it changed.
func (c *Cached) heard(m fabric.Message) {
	id := string(m.Payload)
	if checkIdentifier(id) != nil {
		c.options.Dropped(dropChangeMalformed)
		return
	}
	c.outdated(id)
	c.demand(id)
}

// missed has everything read again: some changes were not told.
func (c *Cached) missed(fabric.Gap) {
	c.mu.Lock()
	c.changes++
	ids := make([]string, 0, len(c.read))
	for id := range c.read {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	c.misses.Purge()
	c.demand(ids...)
}

// outdated notes that an app has changed: what is being read may be old.
func (c *Cached) outdated(id string) {
	c.mu.Lock()
	c.changes++
	c.mu.Unlock()
	c.misses.Remove(lookup{id: id})
}

// want implements Store.
func (c *Cached) want(id string) {
	if checkIdentifier(id) == nil && c.missing(lookup{id: id}) == nil {
		c.demand(id)
	}
}

// missing returns why an app was not found a moment ago, or nil.
func (c *Cached) missing(by lookup) error {
	if m, ok := c.misses.Get(by); ok && time.Since(m.at) < min(missTTL, c.options.TTL) {
		return m.err
	}
	return nil
}

// demand has apps read again, beside who asks for it.
func (c *Cached) demand(ids ...string) {
	c.dueMu.Lock()
	for _, id := range ids {
		if len(c.due) < maxDue { // what is over is read when it is old
			c.due[id] = struct{}{}
		}
	}
	c.dueMu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // it is awake
	}
}

// find looks for an app in the table, once for all who ask for it at the same time.
func (c *Cached) find(ctx context.Context, by lookup) (*App, error) {
	if err := c.missing(by); err != nil {
		return nil, err
	}
	flight := c.flights.DoChan(by.id+"\x00"+by.key, func() (any, error) { return c.look(by) })
	select {
	case landed := <-flight:
		if landed.Err != nil {
			return nil, landed.Err
		}
		return landed.Val.(*App), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// look asks the table for an app, and takes over what it says.
func (c *Cached) look(by lookup) (*App, error) {
	select {
	case c.looks <- struct{}{}:
	default:
		c.options.Count(LookupBusy)
		return nil, fmt.Errorf("%w: %d look-ups are under way", ErrUnavailable, maxLooks)
	}
	defer func() { <-c.looks }()
	c.mu.Lock()
	life := c.life
	c.mu.Unlock()
	if life == nil {
		return nil, errNotLoaded
	}
	ctx, cancel := context.WithTimeout(life, lookTimeout)
	defer cancel()
	for range lookTries {
		reading := c.begin()
		rows, err := c.ask(ctx, by)
		if err != nil {
			c.options.Count(LookupFailed)
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if app, err, done := c.learn(reading, by, rows); done {
			return app, err
		}
	}
	c.options.Count(LookupFailed)
	return nil, fmt.Errorf("%w: apps change all the time", ErrUnavailable)
}

// ask returns the rows, one or none, of an app.
func (c *Cached) ask(ctx context.Context, by lookup) (rows []Row, err error) {
	if by.id != "" {
		rows, err = c.table.ByIDs(ctx, []string{by.id})
	} else {
		var row Row
		if row, err = c.table.ByKey(ctx, by.key); err == nil {
			rows = []Row{row}
		} else if errors.Is(err, ErrNotFound) {
			err = nil
		}
	}
	c.answered(err)
	return rows, err
}

// list implements Store. It reads the table, and changes nothing in memory.
func (c *Cached) list(ctx context.Context, after string, limit int) ([]*App, error) {
	rows, err := c.table.List(ctx, after, limit)
	if ctx.Err() == nil {
		c.answered(err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var list []*App
	for _, row := range rows {
		if row.Err == nil {
			list = append(list, row.App)
		} else {
			c.log.Error("app is unreadable and not listed", "app_id", row.ID, "error", row.Err)
		}
	}
	return list, nil
}

// answered notes whether the table answers, and logs when that changes.
func (c *Cached) answered(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ended := c.life != nil && c.life.Err() != nil
	switch {
	case err != nil && c.away.IsZero() && !ended:
		c.away = time.Now()
		c.log.Warn("the database of apps does not answer; apps in memory are served as they were read",
			"apps", len(c.read), "error", err)
	case err == nil && !c.away.IsZero():
		c.log.Info("the database of apps answers again", "after", time.Since(c.away).Round(time.Millisecond))
		c.away = time.Time{}
	}
}
