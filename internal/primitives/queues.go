package primitives

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// maxBatch is how many jobs one request leases.
	maxBatch = 100
	// maxDelay bounds for how long a job can be delayed.
	maxDelay = 30 * 24 * time.Hour
	// maxDeadPage is how many dead letters one request lists, and deadPage without a limit.
	maxDeadPage = 100
	deadPage    = 20
	// maxPageBytes is about how many bytes of payloads a list has.
	maxPageBytes = 4 << 20
)

// Scopes of queues.
const (
	areaQueues      = "queues"
	actionPublish   = "publish"
	actionWork      = "work"
	actionAdmin     = "admin"
	partQueue       = "queue"
	partLease       = "lease"
	partDeadLetters = "id"
)

func (s *Server) queuePaths() map[string]methods {
	named := func(action string, serve func(*request) (answer, error)) endpoint {
		return endpoint{area: areaQueues, action: action, named: partQueue, serve: serve}
	}
	waiting := named(actionWork, s.leaseJobs)
	waiting.waits = true
	return map[string]methods{
		"queues": {http.MethodGet: {serve: s.listQueues}},
		"queues/{queue}": {
			http.MethodGet:    named(actionAdmin, s.showQueue),
			http.MethodPut:    named(actionAdmin, s.putQueue),
			http.MethodDelete: named(actionAdmin, s.deleteQueue),
		},
		"queues/{queue}/jobs":                     {http.MethodPost: named(actionPublish, s.postJob)},
		"queues/{queue}/lease":                    {http.MethodPost: waiting},
		"queues/{queue}/leases/{lease}/ack":       {http.MethodPost: named(actionWork, s.ackJob)},
		"queues/{queue}/leases/{lease}/nack":      {http.MethodPost: named(actionWork, s.nackJob)},
		"queues/{queue}/leases/{lease}/extend":    {http.MethodPost: named(actionWork, s.extendJob)},
		"queues/{queue}/dead-letters":             {http.MethodGet: named(actionAdmin, s.listDead)},
		"queues/{queue}/dead-letters/{id}":        {http.MethodDelete: named(actionAdmin, s.discardDead)},
		"queues/{queue}/dead-letters/{id}/replay": {http.MethodPost: named(actionAdmin, s.replayDead)},
	}
}

func (r *request) queueName() (queueName, error) {
	name := r.PathValue(partQueue)
	return queueName{r.key.Namespace, name}, checkQueueName(name)
}

// opened returns what works on the queue that the path names, and the queue.
func (s *Server) opened(r *request, create bool) (*worker, fabric.Queue, error) {
	name, err := r.queueName()
	if err != nil {
		return nil, nil, err
	}
	w, err := s.workerOf(r.Context(), name, create)
	if err != nil {
		return nil, nil, err
	}
	queue, err := w.queue.get(r.Context())
	return w, queue, err
}

// queueView is a queue as the API shows it.
type queueView struct {
	Name string `json:"name"`
	QueueSettings
}

// queueList is the answer to GET queues.
type queueList struct {
	Queues []queueView `json:"queues"`
}

// listQueues answers GET queues with those that the key may administrate.
func (s *Server) listQueues(r *request) (answer, error) {
	list := queueList{Queues: []queueView{}}
	for name, record := range s.registry.snapshot.Load().queues {
		if name.namespace == r.key.Namespace && !record.Removing && r.key.allows(areaQueues, actionAdmin, name.name) {
			list.Queues = append(list.Queues, queueView{name.name, record.QueueSettings})
		}
	}
	slices.SortFunc(list.Queues, func(a, b queueView) int { return strings.Compare(a.Name, b.Name) })
	return answer{status: http.StatusOK, body: list}, nil
}

// queueState is the answer to GET queues/{queue}.
type queueState struct {
	queueView
	Jobs    int `json:"jobs"`         // that wait or are on lease, on all nodes
	Leased  int `json:"leased_here"`  // on lease through this node
	Waiting int `json:"waiting_here"` // clients who wait for jobs at this node
}

// showQueue answers GET queues/{queue}.
func (s *Server) showQueue(r *request) (answer, error) {
	w, queue, err := s.opened(r, false)
	if err != nil {
		return answer{}, err
	}
	state := queueState{queueView: queueView{r.PathValue(partQueue), w.record.QueueSettings}}
	if state.Jobs, err = queue.Len(r.Context()); err != nil {
		return answer{}, err
	}
	state.Leased, state.Waiting = w.onLease()
	return answer{status: http.StatusOK, body: state}, nil
}

// putQueue answers PUT queues/{queue}: it creates the queue, or changes its settings. What the
// body leaves out is as by default.
func (s *Server) putQueue(r *request) (answer, error) {
	name, err := r.queueName()
	if err != nil {
		return answer{}, err
	}
	settings := defaultSettings
	if err := decodeInto(r, &settings); err != nil {
		return answer{}, err
	}
	if err := settings.check(); err != nil {
		return answer{}, err
	}
	_, created, err := s.setQueue(r.Context(), name, &settings)
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return answer{status: status, body: queueView{name.name, settings}}, err
}

// deleteQueue answers DELETE queues/{queue}.
func (s *Server) deleteQueue(r *request) (answer, error) {
	name, err := r.queueName()
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, s.removeQueue(r.Context(), name)
}

// payloadForms is what a job or a signal carries, in JSON.
type payloadForms struct {
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 *[]byte `json:"payload_base64,omitempty"`
}

func payloadOf(payload []byte) (f payloadForms) {
	f.Payload, f.PayloadBase64 = forms(payload)
	return f
}

func (f payloadForms) bytes() ([]byte, error) { return pick("payload", f.Payload, f.PayloadBase64) }

// jobRequest is the body of POST queues/{queue}/jobs.
type jobRequest struct {
	ID string `json:"id"`
	payloadForms
	Delay int64 `json:"delay_ms"`
}

// jobAnswer is the answer to it.
type jobAnswer struct {
	ID string `json:"id"`
}

// postJob answers POST queues/{queue}/jobs. A queue that is not there is created.
func (s *Server) postJob(r *request) (answer, error) {
	body, err := decode[jobRequest](r)
	if err != nil {
		return answer{}, err
	}
	payload, err := body.bytes()
	if err == nil {
		err = between("delay_ms", body.Delay, 0, maxDelay.Milliseconds())
	}
	if err != nil {
		return answer{}, err
	}
	job := fabric.Job{ID: body.ID, Payload: payload}
	if job.ID == "" {
		job.ID = jobID(r)
	}
	if body.Delay > 0 {
		job.NotBefore = time.Now().Add(milliseconds(body.Delay))
	}
	_, queue, err := s.opened(r, true)
	if err != nil {
		return answer{}, err
	}
	id, err := queue.Enqueue(r.Context(), job)
	if errors.Is(err, fabric.ErrFull) {
		err = fail(problemFull, "the queue has as many jobs as it may (max_jobs)")
	}
	return answer{status: http.StatusCreated, body: jobAnswer{id}}, err
}

// leaseRequest is the body of POST queues/{queue}/lease.
type leaseRequest struct {
	Max   int    `json:"max"`      // jobs; 1 when it is left out
	Wait  int64  `json:"wait_ms"`  // for the first one
	Lease *int64 `json:"lease_ms"` // of each; visibility_ms of the queue when it is left out
	// Key is the key of background work that the jobs are; no job is leased on a node that does
	// not work on it.
	Key string `json:"key"`
}

// leaseAnswer is the answer to it.
type leaseAnswer struct {
	Jobs   []jobView `json:"jobs"`
	Serves bool      `json:"serves"` // false when the node does not work on the key
}

// jobView is a job on lease.
type jobView struct {
	Lease string `json:"lease_id"`
	TTL   int64  `json:"lease_ms"` // from when the request was answered, and less what that took
	ID    string `json:"id"`
	payloadForms
	Attempt    int       `json:"attempt"`
	EnqueuedAt time.Time `json:"enqueued_at"`
}

// leaseJobs answers POST queues/{queue}/lease. A queue that is not there is created: jobs may
// come while the client waits.
func (s *Server) leaseJobs(r *request) (answer, error) {
	body, err := decode[leaseRequest](r)
	if err != nil {
		return answer{}, err
	}
	if body.Max == 0 {
		body.Max = 1
	}
	err = errors.Join(between("max", int64(body.Max), 1, maxBatch), between("wait_ms", body.Wait, 0, maxWait.Milliseconds()))
	if err == nil && body.Lease != nil {
		err = between("lease_ms", *body.Lease, minLease.Milliseconds(), maxLease.Milliseconds())
	}
	if err != nil {
		return answer{}, err
	}
	result := leaseAnswer{Jobs: []jobView{}, Serves: body.Key == "" || s.options.Roles.Works(body.Key)}
	if !result.Serves {
		s.waitInVain(r, milliseconds(body.Wait))
		return answer{status: http.StatusOK, body: result}, nil
	}
	if !s.held.room() {
		return answer{}, fail(problemFull, "the node holds as much as it may (primitives.max_held)")
	}
	w, _, err := s.opened(r, true)
	if err != nil {
		return answer{}, err
	}
	length := milliseconds(w.record.VisibilityMS)
	if body.Lease != nil {
		length = milliseconds(*body.Lease)
	}
	for _, job := range w.lease(r.Context(), body.Max, length, milliseconds(body.Wait)) {
		result.Jobs = append(result.Jobs, jobView{
			Lease: job.lease, TTL: job.length.Milliseconds(), ID: job.ID, payloadForms: payloadOf(job.Payload),
			Attempt: job.Attempt, EnqueuedAt: job.EnqueuedAt.UTC(),
		})
	}
	return answer{status: http.StatusOK, body: result}, nil
}

// waitInVain keeps a client from asking at once again.
func (s *Server) waitInVain(r *request, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	case <-s.staying.Done():
	}
}

// orderFor returns an order for the lease that the path names.
func (r *request) orderFor(do string) (order, error) {
	name, err := r.queueName()
	return order{Do: do, ID: r.PathValue(partLease), Owner: ownerOf(kindQueue, name.namespace, name.name)}, err
}

// ackJob answers POST queues/{queue}/leases/{lease}/ack: the job was done. Repeating it does
// nothing.
func (s *Server) ackJob(r *request) (answer, error) {
	o, err := r.orderFor(doEnd)
	if err != nil {
		return answer{}, err
	}
	o.Outcome = outcomeDone
	_, err = s.command(r.Context(), o)
	return answer{status: http.StatusNoContent}, err
}

// nackRequest is the body of POST queues/{queue}/leases/{lease}/nack.
type nackRequest struct {
	Reason string `json:"reason"`
	// Dead makes the job a dead letter at once, and Release gives it to another without counting
	// as an attempt.
	Dead    bool `json:"dead"`
	Release bool `json:"release"`
}

// nackJob answers POST queues/{queue}/leases/{lease}/nack: the job was not done.
func (s *Server) nackJob(r *request) (answer, error) {
	body, err := decode[nackRequest](r)
	if err != nil {
		return answer{}, err
	}
	o, err := r.orderFor(doEnd)
	if err != nil {
		return answer{}, err
	}
	switch {
	case body.Dead && body.Release:
		return answer{}, invalid("dead and release contradict each other")
	case body.Dead:
		o.Outcome = outcomeGivenUp
	case body.Release:
		o.Outcome = outcomeReleased
	default:
		o.Outcome = outcomeFailed
	}
	if o.Reason = body.Reason; o.Reason == "" {
		o.Reason = "no reason was given"
	}
	o.Reason = o.Reason[:min(len(o.Reason), fabric.MaxReasonSize)]
	_, err = s.command(r.Context(), o)
	return answer{status: http.StatusNoContent}, err
}

// extendJobRequest is the body of POST queues/{queue}/leases/{lease}/extend.
type extendJobRequest struct {
	Lease *int64 `json:"lease_ms"` // from now; visibility_ms of the queue when it is left out
}

// extendJob answers POST queues/{queue}/leases/{lease}/extend.
func (s *Server) extendJob(r *request) (answer, error) {
	body, err := decode[extendJobRequest](r)
	if err != nil {
		return answer{}, err
	}
	o, err := r.orderFor(doExtend)
	if err != nil {
		return answer{}, err
	}
	if body.Lease != nil {
		o.Length = *body.Lease
		err = between("lease_ms", o.Length, minLease.Milliseconds(), maxLease.Milliseconds())
	} else {
		record, found := s.registry.queue(queueName{r.key.Namespace, r.PathValue(partQueue)})
		o.Length = record.VisibilityMS
		if !found {
			err = errQueueNotFound
		}
	}
	if err != nil {
		return answer{}, err
	}
	granted, err := s.command(r.Context(), o)
	return answer{status: http.StatusOK, body: leaseTime{granted.Milliseconds()}}, err
}

// leaseTime tells for how long a job is on lease.
type leaseTime struct {
	TTL int64 `json:"lease_ms"`
}

// deadView is a dead letter.
type deadView struct {
	ID string `json:"id"`
	payloadForms
	Attempts   int       `json:"attempts"`
	Reason     string    `json:"reason"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	FailedAt   time.Time `json:"failed_at"`
}

// deadList is the answer to GET queues/{queue}/dead-letters.
type deadList struct {
	DeadLetters []deadView `json:"dead_letters"`
	Next        string     `json:"next,omitempty"` // value of after for the next page
}

// listDead answers GET queues/{queue}/dead-letters?after=&limit=, oldest first.
func (s *Server) listDead(r *request) (answer, error) {
	limit, err := r.number("limit", deadPage, 1, maxDeadPage)
	if err != nil {
		return answer{}, err
	}
	_, queue, err := s.opened(r, false)
	if err != nil {
		return answer{}, err
	}
	letters, err := queue.DeadLetters(r.Context(), r.URL.Query().Get("after"), int(limit))
	if err != nil {
		return answer{}, err
	}
	list := deadList{DeadLetters: []deadView{}}
	size := 0
	for _, letter := range letters {
		if size += len(letter.Payload); size > maxPageBytes && len(list.DeadLetters) > 0 {
			break
		}
		list.DeadLetters = append(list.DeadLetters, deadView{
			ID: letter.ID, payloadForms: payloadOf(letter.Payload), Attempts: letter.Attempt, Reason: letter.Reason,
			EnqueuedAt: letter.EnqueuedAt.UTC(), FailedAt: letter.FailedAt.UTC(),
		})
	}
	if n := len(list.DeadLetters); n == int(limit) || n < len(letters) {
		list.Next = list.DeadLetters[n-1].ID
	}
	return answer{status: http.StatusOK, body: list}, nil
}

// replayDead answers POST queues/{queue}/dead-letters/{id}/replay.
func (s *Server) replayDead(r *request) (answer, error) {
	_, queue, err := s.opened(r, false)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, queue.Replay(r.Context(), r.PathValue(partDeadLetters))
}

// discardDead answers DELETE queues/{queue}/dead-letters/{id}.
func (s *Server) discardDead(r *request) (answer, error) {
	_, queue, err := s.opened(r, false)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, queue.Discard(r.Context(), r.PathValue(partDeadLetters))
}
