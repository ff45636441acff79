package admin

import (
	"net/http"

	"github.com/parleyio/parley/internal/pusher/webhook"
)

// defaultDeadLimit is how many dead letters GET webhooks/dead-letters lists without a limit.
const defaultDeadLimit = 100

// DeadList is the answer to GET webhooks/dead-letters.
type DeadList struct {
	DeadLetters []webhook.Dead `json:"dead_letters"`
	// Next is the value of after for the next page, and empty if this one was not full.
	Next string `json:"next,omitempty"`
}

// listDead answers GET webhooks/dead-letters?after=&limit=, oldest first.
func (h *Handler) listDead(r *http.Request) (int, any, error) {
	limit, err := pageLimit(r, defaultDeadLimit, webhook.ListDeadMax)
	if err != nil {
		return 0, nil, err
	}
	dead, err := h.dead.ListDead(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		return 0, nil, err
	}
	list := DeadList{DeadLetters: dead}
	if dead == nil {
		list.DeadLetters = []webhook.Dead{}
	}
	if len(dead) >= limit {
		list.Next = dead[len(dead)-1].ID
	}
	return http.StatusOK, list, nil
}

// replayDead answers POST webhooks/dead-letters/{id}/replay.
func (h *Handler) replayDead(r *http.Request) (int, any, error) {
	id := r.PathValue("id")
	if err := h.dead.Replay(r.Context(), id); err != nil {
		return 0, nil, err
	}
	h.log.Info("dead webhook replayed", "dead_letter_id", id)
	return http.StatusNoContent, nil, nil
}

// discardDead answers DELETE webhooks/dead-letters/{id}.
func (h *Handler) discardDead(r *http.Request) (int, any, error) {
	id := r.PathValue("id")
	if err := h.dead.Discard(r.Context(), id); err != nil {
		return 0, nil, err
	}
	h.log.Info("dead webhook discarded", "dead_letter_id", id)
	return http.StatusNoContent, nil, nil
}
