package api

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// maxClockSkew is how far a request's timestamp may be from this node's clock, as at
// Pusher. It bounds how long a request can be replayed.
const maxClockSkew = 600 * time.Second

// verify checks the signature of a REST request: hex HMAC-SHA256 of method, path and the
// sorted, un-escaped query without auth_signature, joined by line feeds. It returns the
// query, with which the body is still to be verified.
func verify(r *http.Request, app *apps.App, now time.Time) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fail(unreadableQuery, "The query could not be read")
	}
	if subtle.ConstantTimeCompare([]byte(query.Get("auth_key")), []byte(app.Key)) != 1 {
		return nil, fail(unknownKey, "Unknown auth_key")
	}
	if version := query.Get("auth_version"); version != "1.0" {
		return nil, fail(invalidVersion, "auth_version must be 1.0")
	}
	seconds, err := strconv.ParseInt(query.Get("auth_timestamp"), 10, 64)
	if err != nil {
		return nil, fail(expiredTimestamp, "auth_timestamp must be a Unix time in seconds")
	}
	if skew := now.Sub(time.Unix(seconds, 0)); skew > maxClockSkew || skew < -maxClockSkew {
		return nil, fail(expiredTimestamp,
			"Timestamp expired: the server's time is %d, it may differ by %d seconds", now.Unix(), int(maxClockSkew.Seconds()))
	}
	if r.ContentLength != 0 && !query.Has("body_md5") {
		return nil, errBodyMD5
	}
	// Libraries sign the path they send, some of them before escaping it, and know nothing
	// of a prefix that a proxy or path_prefix puts in front.
	signature := query.Get(protocol.SignatureParameter)
	for _, path := range []string{r.URL.EscapedPath(), r.URL.Path} {
		candidates := []string{path}
		if _, behind, found := strings.Cut(path, "/apps/"); found {
			candidates = []string{"/apps/" + behind, path}
		}
		for _, candidate := range candidates {
			for _, parameters := range []url.Values{query, withRepeatedNames(query)} {
				if protocol.VerifySignature(app.Secret, protocol.RequestText(r.Method, candidate, parameters), signature) {
					return query, nil
				}
			}
		}
	}
	return nil, fail(invalidSignature, "Invalid signature: you should have sent HmacSHA256Hex(%q, your_secret_key), but you sent %.100q",
		protocol.RequestText(r.Method, r.URL.Path, query), signature)
}

// withRepeatedNames returns the query with each array as one value that repeats the name,
// "a&info[]=b": some libraries sign an array as it stands in the query and do not join its
// values by commas.
func withRepeatedNames(query url.Values) url.Values {
	repeated := make(url.Values, len(query))
	for name, values := range query {
		repeated[name] = []string{strings.Join(values, "&"+strings.ToLower(name)+"=")}
	}
	return repeated
}

var errBodyMD5 = fail(invalidBodyMD5, "body_md5 is missing or does not match the body")

func verifyBody(query url.Values, body []byte) error {
	if len(body) == 0 && !query.Has("body_md5") {
		return nil
	}
	if query.Get("body_md5") != protocol.BodyMD5(body) {
		return errBodyMD5
	}
	return nil
}
