// Package api is the HTTP API of messaging for the application, with the routes and shapes of
// WuKongIM's, odd ones included.
//
// It may import im and its rooms, and ratelimit. It must never import another surface, the fabric's drivers or the
// cluster.
package api

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/ratelimit"
)

// Options configure the API.
type Options struct {
	Token   string // what the header token has to be; empty for no question
	MaxBody int64
	// Addresses returns what clients of a request are told to connect to.
	Addresses   func(r *http.Request, intranet bool) Addresses
	CommandSync bool
	// Webhooks are nil when the application is not told of anything.
	Webhooks Webhooks
	Health   func() error
	Node     Node
	Login    Login
	// Dropped counts what is refused because there is too much of it.
	Dropped func(reason string)
	Logger  *slog.Logger
}

// Webhooks are the requests to the application that were given up.
type Webhooks interface {
	// DeadLetters returns them as JSON has them, the oldest first, behind the one with an ID.
	DeadLetters(ctx context.Context, after string, limit int) (any, error)
	Replay(ctx context.Context, id string) error
}

// Addresses are where clients connect.
type Addresses struct {
	TCP string `json:"tcp_addr"`
	WS  string `json:"ws_addr"`
	WSS string `json:"wss_addr"`
}

// API answers the application.
type API struct {
	options Options
	server  *im.Server
	mux     *http.ServeMux
	logins  *ratelimit.Keyed[string] // by address
}

// New returns the handler of all routes.
func New(server *im.Server, options Options) *API {
	a := &API{options: options, server: server, mux: http.NewServeMux(), logins: newLoginLimit()}
	for pattern, handle := range map[string]func(*call) (any, error){
		"POST /user/token":                        a.setToken,
		"POST /user/device_quit":                  a.deviceQuit,
		"POST /user/onlinestatus":                 a.onlineStatus,
		"POST /user/systemuids_add":               a.systemAdd,
		"POST /user/systemuids_remove":            a.systemRemove,
		"GET /user/systemuids":                    a.systemList,
		"POST /conn/remove":                       a.kickConn,
		"POST /conn/kick":                         a.kickConn,
		"GET /connz":                              a.connections,
		"GET /route":                              a.route,
		"POST /route/batch":                       a.routeBatch,
		"POST /channel":                           a.channelCreate,
		"POST /channel/info":                      a.channelInfo,
		"POST /channel/delete":                    a.channelDelete,
		"POST /channel/subscriber_add":            a.subscriberAdd,
		"POST /channel/subscriber_remove":         a.subscriberRemove,
		"POST /channel/subscriber_remove_all":     a.subscriberClear,
		"POST /tmpchannel/subscriber_set":         a.temporarySet,
		"POST /channel/blacklist_add":             a.denyAdd,
		"POST /channel/blacklist_set":             a.denySet,
		"POST /channel/blacklist_remove":          a.denyRemove,
		"POST /channel/blacklist_remove_all":      a.denyClear,
		"POST /channel/whitelist_add":             a.allowAdd,
		"POST /channel/whitelist_set":             a.allowSet,
		"POST /channel/whitelist_remove":          a.allowRemove,
		"POST /channel/whitelist_remove_all":      a.allowClear,
		"GET /channel/whitelist":                  a.allowList,
		"POST /message/send":                      a.send,
		"POST /message/sendbatch":                 a.sendBatch,
		"POST /message/sync":                      a.commandSync,
		"POST /message/syncack":                   a.commandAck,
		"POST /channel/messagesync":               a.messageSync,
		"POST /messages":                          a.messages,
		"POST /message":                           a.message,
		"GET /message/byclientmsgno":              a.messageByNo,
		"POST /message/recall":                    a.recall,
		"GET /channel/max_message_seq":            a.maxSeq,
		"GET /channel/last_message":               a.lastMessage,
		"POST /conversation/sync":                 a.conversationSync,
		"POST /conversations/clearUnread":         a.clearUnread,
		"POST /conversations/setUnread":           a.setUnread,
		"POST /conversations/delete":              a.conversationDelete,
		"POST /conversation/channels":             a.conversationChannels,
		"POST /conversation/syncByChannels":       a.conversationsOf,
		"GET /webhook/deadletters":                a.deadLetters,
		"POST /user/systemuids_add_to_cache":      a.nothing,
		"POST /user/systemuids_remove_from_cache": a.nothing,
		"POST /conversation/syncMessages":         a.syncMessages,
		"GET /varz":                               a.varz,
		"GET /varz/setting":                       a.varzSetting,
		"GET /migrate/result":                     a.migrateResult,
		"POST /manager/login":                     a.login,
		"GET /tag":                                a.tag,
		"GET /tags":                               a.tags,
		"POST /tag/remove":                        a.tagRemove,
		"POST /webhook/replay":                    a.replay,
	} {
		a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { a.answer(w, r, handle) })
	}
	a.mux.HandleFunc("GET /health", a.health)
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	if r.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Content-Type, token, Authorization")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	open := r.URL.Path == "/health" || r.URL.Path == "/manager/login"
	if code := a.admit(r); !open && code != http.StatusOK {
		text := "the header token is missing or wrong"
		if code == http.StatusForbidden {
			text = "this session may not do that"
		}
		write(w, code, failure{text, code})
		return
	}
	a.mux.ServeHTTP(w, r)
}

// admit returns the status that a request gets by its token or session.
func (a *API) admit(r *http.Request) int {
	token := a.options.Token
	if token == "" || subtle.ConstantTimeCompare([]byte(r.Header.Get("token")), []byte(token)) == 1 {
		return http.StatusOK
	}
	switch known, may := a.session(r); {
	case may:
		return http.StatusOK
	case known:
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

// call is one request.
type call struct {
	context.Context
	request *http.Request
	body    []byte
}

// read decodes the body. Fields that are not known are left alone, as in the original.
func (c *call) read(into any) error {
	if err := json.Unmarshal(c.body, into); err != nil {
		return badRequest("the body is not the JSON that is expected: " + err.Error())
	}
	return nil
}

// badRequest is an error of the caller.
type badRequest string

// Error implements error.
func (e badRequest) Error() string { return string(e) }

// bare is an answer without an envelope.
type bare struct{ value any }

// status is a refusal that is answered with HTTP 200.
type status int

type failure struct {
	Message string `json:"msg"`
	Status  int    `json:"status"`
}

type success struct {
	Status int `json:"status"`
	Data   any `json:"data,omitempty"`
}

// answer calls a handler and writes what it returns: nil is success without data, bare a value
// without an envelope, status a refusal.
func (a *API) answer(w http.ResponseWriter, r *http.Request, handle func(*call) (any, error)) {
	body, err := readBody(w, r, a.options.MaxBody)
	if err != nil {
		write(w, http.StatusRequestEntityTooLarge, failure{"the body is too large", http.StatusRequestEntityTooLarge})
		return
	}
	value, err := handle(&call{r.Context(), r, body})
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	switch value := value.(type) {
	case bare:
		write(w, http.StatusOK, value.value)
	case status:
		write(w, http.StatusOK, success{Status: int(value)})
	default:
		write(w, http.StatusOK, success{http.StatusOK, value})
	}
}

func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		write(w, http.StatusBadRequest, failure{bad.Error(), http.StatusBadRequest})
	case errors.Is(err, fabric.ErrTooLarge):
		write(w, http.StatusBadRequest, failure{"the message is too large with its recipients (512 KiB)", http.StatusBadRequest})
	case errors.Is(err, fabric.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		w.Header().Set("Retry-After", "1")
		write(w, http.StatusServiceUnavailable, failure{"the cluster cannot do this at the moment, try again: " + err.Error(),
			http.StatusServiceUnavailable})
	default:
		a.options.Logger.Warn("request failed", "path", r.URL.Path, "error", err)
		write(w, http.StatusInternalServerError, failure{err.Error(), http.StatusInternalServerError})
	}
}

const maxDeadLetters = 1000

func (a *API) deadLetters(c *call) (any, error) {
	if a.options.Webhooks == nil {
		return bare{[]string{}}, nil
	}
	list, err := a.options.Webhooks.DeadLetters(c, c.request.URL.Query().Get("after"), maxDeadLetters)
	return bare{list}, err
}

func (a *API) replay(c *call) (any, error) {
	var q struct {
		ID string `json:"id"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if a.options.Webhooks == nil || q.ID == "" {
		return nil, badRequest("id is missing, or there are no webhooks")
	}
	err := a.options.Webhooks.Replay(c, q.ID)
	if errors.Is(err, fabric.ErrNotFound) {
		return noMessage, nil
	}
	return nil, err
}

func (a *API) health(w http.ResponseWriter, _ *http.Request) {
	if err := a.options.Health(); err != nil {
		write(w, http.StatusInternalServerError, map[string]string{"status": "error", "message": err.Error()})
		return
	}
	write(w, http.StatusOK, map[string]string{"status": "ok"})
}

func write(w http.ResponseWriter, code int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"msg":"the answer cannot be encoded","status":500}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write(data) // who does not listen any more does not matter
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Method == http.MethodGet {
		return nil, nil
	}
	return readAll(http.MaxBytesReader(w, r.Body, limit))
}

// flag is a number that says yes or no. Clients write 0 and 1, some true and false.
type flag bool

// UnmarshalJSON implements json.Unmarshaler.
func (f *flag) UnmarshalJSON(data []byte) error {
	switch text := strings.Trim(string(data), `"`); text {
	case "0", "false", "null", "":
		*f = false
	case "1", "true":
		*f = true
	default:
		return errors.New("must be 0 or 1")
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (f flag) MarshalJSON() ([]byte, error) {
	if f {
		return []byte("1"), nil
	}
	return []byte("0"), nil
}

// channelOf is the stored channel that uid means by an id and type.
func channelOf(uid, id string, kind uint8) (message.Channel, error) {
	switch {
	case id == "":
		return message.Channel{}, badRequest("channel_id is missing")
	case kind == 0 || kind > message.AgentGroup:
		return message.Channel{}, badRequest("channel_type is missing or unknown")
	case kind != message.Person && !im.CheckChannelID(id, kind):
		return message.Channel{}, badID
	case kind == message.Person && !strings.Contains(id, "@"):
		if uid == "" {
			return message.Channel{}, badRequest("login_uid is missing: a person's channel is between two")
		}
		if !message.CheckID(uid) || !message.CheckID(id) {
			return message.Channel{}, badID
		}
	}
	if kind == message.Person && strings.Contains(id, "@") { // the stored id
		a, b, _ := strings.Cut(id, "@")
		if !message.CheckID(a) || !message.CheckID(b) {
			return message.Channel{}, badID
		}
		return message.Channel{ID: id, Type: kind}, nil
	}
	return message.Stored(uid, id, kind), nil
}

const badID = badRequest("an id is empty, too long, or has one of the characters @ # &")

// checkUIDs refuses ids that clients may not have.
func checkUIDs(uids []string) error {
	for _, uid := range uids {
		if !message.CheckID(uid) && uid != im.SystemUID {
			return badID
		}
	}
	return nil
}
