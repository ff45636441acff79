package api

import (
	"fmt"
	"net/http"
)

// refusal is a kind of failure of a REST request: its status and its name in the metric
// http_rejected_total.
type refusal struct {
	status int
	name   string
}

// The failures of REST requests.
var (
	unreadableBody   = refusal{http.StatusBadRequest, "unreadable_body"}
	unreadableQuery  = refusal{http.StatusBadRequest, "unreadable_query"}
	invalidUTF8      = refusal{http.StatusBadRequest, "invalid_utf8"}
	invalidJSON      = refusal{http.StatusBadRequest, "invalid_json"}
	invalidEvent     = refusal{http.StatusBadRequest, "invalid_event"}
	invalidChannel   = refusal{http.StatusBadRequest, "invalid_channel_name"}
	invalidSocket    = refusal{http.StatusBadRequest, "invalid_socket_id"}
	tooManyChannels  = refusal{http.StatusBadRequest, "too_many_channels"}
	tooManyEvents    = refusal{http.StatusBadRequest, "too_many_events"}
	invalidInfo      = refusal{http.StatusBadRequest, "invalid_info"}
	unknownKey       = refusal{http.StatusUnauthorized, "unknown_key"}
	invalidVersion   = refusal{http.StatusUnauthorized, "invalid_auth_version"}
	expiredTimestamp = refusal{http.StatusUnauthorized, "expired_timestamp"}
	invalidBodyMD5   = refusal{http.StatusUnauthorized, "invalid_body_md5"}
	invalidSignature = refusal{http.StatusUnauthorized, "invalid_signature"}
	disabledApp      = refusal{http.StatusForbidden, "app_disabled"}
	unknownApp       = refusal{http.StatusNotFound, "unknown_app"}
	largeBody        = refusal{http.StatusRequestEntityTooLarge, "body_too_large"}
	largeData        = refusal{http.StatusRequestEntityTooLarge, "data_too_large"}
	rateLimited      = refusal{http.StatusTooManyRequests, "rate_limited"}
	overloaded       = refusal{http.StatusServiceUnavailable, "subscribers_too_slow"}
	appUnavailable   = refusal{http.StatusServiceUnavailable, "app_unavailable"}
	internalError    = refusal{http.StatusInternalServerError, "internal_error"}
)

// requestError is a failure with the text for the caller.
type requestError struct {
	refusal
	text string
}

func (e *requestError) Error() string { return e.text }

func fail(kind refusal, format string, args ...any) error {
	return &requestError{kind, fmt.Sprintf(format, args...)}
}
