package admin

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// Masked stands in an answer in place of the password in a webhook's address and of the
// values of its headers, unless secrets were asked for. A request cannot set it, so that
// an answer that is sent back does not destroy what it hides.
const Masked = "xxxxx"

// AppView is an app as the API shows it.
type AppView struct {
	*apps.App
	// Secret is empty, and not in the JSON, unless it was asked for or is new.
	Secret string `json:"secret,omitempty"`
}

// AppList is the answer to GET apps.
type AppList struct {
	Apps []AppView `json:"apps"`
	// Next is the value of after for the next page, and empty if this one was not full.
	Next string `json:"next,omitempty"`
}

// appsPage is how many apps GET apps lists at most, and without a limit.
const appsPage = 1000

// RotateRequest is the body of POST apps/{id}/rotate, which may be empty.
type RotateRequest struct {
	Key bool `json:"key"` // whether there shall be a new key as well
}

// listApps answers GET apps?after=&limit= with apps in the order of their ids and no secrets.
func (h *Handler) listApps(r *http.Request) (int, any, error) {
	limit, err := pageLimit(r, appsPage, appsPage)
	if err != nil {
		return 0, nil, err
	}
	found, err := h.apps.List(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		return 0, nil, err
	}
	list := AppList{Apps: []AppView{}}
	for _, app := range found {
		list.Apps = append(list.Apps, masked(app))
	}
	if len(found) == limit {
		list.Next = found[limit-1].ID
	}
	return http.StatusOK, list, nil
}

// pageLimit returns the limit of a request for one page of a list.
func pageLimit(r *http.Request, preset, most int) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return preset, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > most {
		return 0, fmt.Errorf("%w: limit must be a number from 1 to %d", errInvalidRequest, most)
	}
	return limit, nil
}

// showApp answers GET apps/{id}, with secrets if the query says secret=1.
func (h *Handler) showApp(r *http.Request) (int, any, error) {
	app, err := h.apps.FindByID(r.Context(), r.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	switch r.URL.Query().Get("secret") {
	case "1", "true":
		return http.StatusOK, AppView{App: app, Secret: app.Secret}, nil
	}
	return http.StatusOK, masked(app), nil
}

// createApp answers POST apps. What the body leaves out is empty or random, and enabled.
func (h *Handler) createApp(r *http.Request) (int, any, error) {
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	app, err := decodeApp(body)
	if err != nil {
		return 0, nil, err
	}
	if app.Static {
		return 0, nil, fmt.Errorf("%w: static cannot be set", errInvalidRequest)
	}
	created, err := h.apps.Create(r.Context(), *app)
	if err != nil {
		return 0, nil, err
	}
	h.log.Info("app created", "app_id", created.ID)
	return http.StatusCreated, AppView{App: created, Secret: created.Secret}, nil
}

// patchApp answers PATCH apps/{id} with a JSON merge patch (RFC 7396) as its body.
func (h *Handler) patchApp(r *http.Request) (int, any, error) {
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	patch, err := decodeNumbers(body)
	if err != nil {
		return 0, nil, err
	}
	if _, ok := patch.(map[string]any); !ok {
		return 0, nil, fmt.Errorf("%w: the body must be a JSON object", errInvalidRequest)
	}
	// Once for the fields that the patch names, whose mistakes are then told without those
	// of the app, and without the masks that only a client can have written.
	if _, err := decodeApp(body); err != nil {
		return 0, nil, err
	}
	updated, err := h.apps.Update(r.Context(), r.PathValue("id"), func(app *apps.App) error {
		return applyPatch(app, patch)
	})
	if err != nil {
		return 0, nil, err
	}
	h.log.Info("app updated", "app_id", updated.ID)
	return http.StatusOK, masked(updated), nil
}

// applyPatch changes app by a merge patch.
func applyPatch(app *apps.App, patch any) error {
	text, err := json.Marshal(app)
	if err != nil {
		return fmt.Errorf("encode app: %w", err)
	}
	target, err := decodeNumbers(text)
	if err != nil {
		return err
	}
	if text, err = json.Marshal(mergePatch(target, patch)); err != nil {
		return fmt.Errorf("encode app: %w", err)
	}
	changed := apps.App{Enabled: true}
	if err := decodeStrictly(text, &changed); err != nil {
		return err
	}
	if changed.Static {
		return fmt.Errorf("%w: static cannot be set", errInvalidRequest)
	}
	*app = changed
	return nil
}

// deleteApp answers DELETE apps/{id}.
func (h *Handler) deleteApp(r *http.Request) (int, any, error) {
	id := r.PathValue("id")
	if err := h.apps.Delete(r.Context(), id); err != nil {
		return 0, nil, err
	}
	h.log.Info("app deleted", "app_id", id)
	return http.StatusNoContent, nil, nil
}

// rotateApp answers POST apps/{id}/rotate with a new secret, and a new key if it was asked
// for.
func (h *Handler) rotateApp(r *http.Request) (int, any, error) {
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	var request RotateRequest
	if len(body) > 0 {
		if err := decodeStrictly(body, &request); err != nil {
			return 0, nil, err
		}
	}
	app, err := h.apps.Rotate(r.Context(), r.PathValue("id"), request.Key)
	if err != nil {
		return 0, nil, err
	}
	h.log.Info("app rotated", "app_id", app.ID, "key_changed", request.Key)
	return http.StatusOK, AppView{App: app, Secret: app.Secret}, nil
}

// decodeApp decodes what a client says of an app.
func decodeApp(body []byte) (*apps.App, error) {
	app := apps.App{Enabled: true}
	if err := decodeStrictly(body, &app); err != nil {
		return nil, err
	}
	for i, hook := range app.Webhooks {
		address, err := url.Parse(hook.URL)
		hidden := false
		if err == nil && address.User != nil {
			password, _ := address.User.Password()
			hidden = password == Masked
		}
		for _, value := range hook.Headers {
			hidden = hidden || value == Masked
		}
		if hidden {
			return nil, fmt.Errorf("%w: webhooks[%d] has a masked value; "+
				"read the app with secret=1 to change it", errInvalidRequest, i)
		}
	}
	return &app, nil
}

// masked returns the view of an app without its secrets.
func masked(app *apps.App) AppView {
	shown := *app
	shown.Webhooks = slices.Clone(app.Webhooks)
	for i := range shown.Webhooks {
		hook := &shown.Webhooks[i]
		if address, err := url.Parse(hook.URL); err == nil {
			hook.URL = address.Redacted()
		}
		hook.Headers = maps.Clone(hook.Headers)
		for name := range hook.Headers {
			hook.Headers[name] = Masked
		}
	}
	shown.Secret = ""
	return AppView{App: &shown}
}
