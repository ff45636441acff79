package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parleyio/parley/internal/ratelimit"
)

// Manager is someone who logs in by /manager/login.
type Manager struct {
	Password    string
	Permissions string // "resource:acts,..."; *:rw is everything, *:r all that GET answers
}

// Login is who logs in, and how sessions are signed. All nodes have the same.
type Login struct {
	Managers map[string]Manager // by name
	Secret   []byte
	Lifetime time.Duration
	Client   func(r *http.Request) string // the address of who asks
}

// SessionSecret makes a key for sessions from another secret.
func SessionSecret(from string) []byte {
	mac := hmac.New(sha256.New, []byte(from))
	mac.Write([]byte("parley messaging sessions"))
	return mac.Sum(nil)
}

// key is what the sessions of a manager are signed with: another password ends them.
func (l Login) key(name string) []byte {
	mac := hmac.New(sha256.New, l.Secret)
	mac.Write([]byte(name + "\x00" + l.Managers[name].Password))
	return mac.Sum(nil)
}

const (
	// maxLogins is how often one address may try in a minute, and maxLoginAddresses how many addresses are
	// remembered.
	maxLogins         = 20
	maxLoginAddresses = 10000
	issuer            = "parley"
)

func newLoginLimit() *ratelimit.Keyed[string] {
	return ratelimit.NewKeyed[string](maxLogins, time.Minute, maxLoginAddresses)
}

// claims are those of a session.
type claims struct {
	jwt.RegisteredClaims
	Username string `json:"username"`
}

const badLogin = badRequest("username or password is wrong")

// login answers with a session, which is taken in place of the header token.
func (a *API) login(c *call) (any, error) {
	var q struct{ Username, Password string }
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if !a.logins.Allow(a.options.Login.Client(c.request), 1).OK {
		a.options.Dropped(DropLogin)
		return nil, badRequest("too many logins from this address; try again in a minute")
	}
	known, found := a.options.Login.Managers[q.Username]
	want, got := sha256.Sum256([]byte(known.Password)), sha256.Sum256([]byte(q.Password))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !found || q.Password == "" {
		return nil, badLogin
	}
	now := time.Now()
	expires := now.Add(a.options.Login.Lifetime)
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{jwt.RegisteredClaims{
		Issuer: issuer, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}, q.Username}).SignedString(a.options.Login.key(q.Username))
	if err != nil {
		return nil, err
	}
	return bare{struct {
		Username    string `json:"username"`
		Token       string `json:"token"`
		Exp         int64  `json:"exp"` // seconds
		Permissions string `json:"permissions"`
	}{q.Username, token, expires.Unix(), known.Permissions}}, nil
}

// DropLogin is a login that is refused because there are too many.
const DropLogin = "im_manager_logins"

// session tells whether a request has the session of a manager, and whether that one may do what it asks
// for. Only permissions for everything count here: those for single resources are of the console.
func (a *API) session(r *http.Request) (known, may bool) {
	text, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		return false, false
	}
	var of claims
	_, err := jwt.ParseWithClaims(text, &of, func(*jwt.Token) (any, error) { return a.options.Login.key(of.Username), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithExpirationRequired())
	manager, found := a.options.Login.Managers[of.Username]
	if err != nil || !found {
		return false, false
	}
	for permission := range strings.SplitSeq(manager.Permissions, ",") {
		acts, all := strings.CutPrefix(strings.TrimSpace(permission), "*:")
		if all && (strings.Contains(acts, "w") || r.Method == http.MethodGet && strings.Contains(acts, "r")) {
			return true, true
		}
	}
	return true, false
}
