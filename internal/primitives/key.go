package primitives

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode"
)

// Sentinel errors of keys and queues. Callers match them with errors.Is.
var (
	// ErrKeyNotFound says that there is no key with that id.
	ErrKeyNotFound = errors.New("key not found")
	// ErrKeyExists says that another key has that id.
	ErrKeyExists = errors.New("another key has that id")
	// ErrKeyStatic says that the key is one of the configuration file, which no call changes.
	ErrKeyStatic = errors.New("the key is of the configuration file")
	// ErrKeyInvalid says that a key cannot be as asked for; the text tells why.
	ErrKeyInvalid = errors.New("invalid key")
	// ErrTooManyKeys says that there are MaxKeys keys.
	ErrTooManyKeys = errors.New("too many keys")
)

const (
	// MaxKeys is how many keys the store has at most.
	MaxKeys = 10_000
	// MinTokenSize is the least size in bytes of a token of the configuration file.
	MinTokenSize = 16

	tokenPrefix = "pk_" // begins a token, so that scanners for secrets know it
	tokenSize   = 32    // bytes of randomness
)

// Key lets its bearer do what its scopes say, in a namespace that it shares with other keys of
// the same namespace and with nobody else.
type Key struct {
	ID                string
	Namespace         string
	Scopes            []string
	RequestsPerSecond int  // 0 for the default
	Static            bool // of the configuration file
	CreatedAt         time.Time

	hash   tokenHash
	scopes []scope
	gone   chan struct{} // closed when the key is revoked
}

// tokenHash is what is kept of a token. A token has so much randomness that nobody finds it
// from its hash, nor a token whose hash begins like another's, by however many questions.
type tokenHash [sha256.Size]byte

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }

func (h tokenHash) equals(other tokenHash) bool {
	return subtle.ConstantTimeCompare(h[:], other[:]) == 1
}

// newToken returns the token of a new key.
func newToken() string {
	random := make([]byte, tokenSize)
	_, _ = rand.Read(random) // never fails
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(random)
}

// randomText returns what nobody guesses.
func randomText() string { return rand.Text() }

// check completes a key, or says what is wrong with it.
func (k *Key) check() error {
	switch {
	case !keyIDPattern.MatchString(k.ID):
		return fmt.Errorf("%w: the id %.80q must be 1 to 64 letters, digits, - and _", ErrKeyInvalid, k.ID)
	case !namespacePattern.MatchString(k.Namespace):
		return fmt.Errorf("%w: the namespace %.80q must be 1 to 40 letters, digits and -", ErrKeyInvalid, k.Namespace)
	case k.RequestsPerSecond < 0:
		return fmt.Errorf("%w: requests_per_second must not be negative", ErrKeyInvalid)
	}
	var err error
	if k.scopes, err = parseScopes(k.Scopes); err != nil {
		return fmt.Errorf("%w: %w", ErrKeyInvalid, err)
	}
	k.gone = make(chan struct{})
	return nil
}

// allows tells whether the key may do something with a name.
func (k *Key) allows(area, action, name string) bool {
	for _, s := range k.scopes {
		if s.covers(area, action, name) {
			return true
		}
	}
	return false
}

// StaticKey is a key of the configuration file. Either Token or its SHA-256 in hexadecimal
// digits is set.
type StaticKey struct {
	ID                string
	Namespace         string
	Token             string
	TokenSHA256       string
	Scopes            []string
	RequestsPerSecond int
}

func (s StaticKey) key() (*Key, error) {
	k := &Key{
		ID: s.ID, Namespace: s.Namespace, Scopes: s.Scopes, RequestsPerSecond: s.RequestsPerSecond, Static: true,
	}
	if err := k.check(); err != nil {
		return nil, fmt.Errorf("key %.80q: %w", s.ID, err)
	}
	if s.TokenSHA256 != "" {
		hash, err := hex.DecodeString(s.TokenSHA256)
		if err != nil || len(hash) != sha256.Size || s.Token != "" {
			return nil, fmt.Errorf("key %q: %w: it needs a token or the SHA-256 of one", s.ID, ErrKeyInvalid)
		}
		k.hash = tokenHash(hash)
		return k, nil
	}
	for _, r := range s.Token {
		if r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return nil, fmt.Errorf("key %q: %w: a token has visible ASCII characters only", s.ID, ErrKeyInvalid)
		}
	}
	if len(s.Token) < MinTokenSize {
		return nil, fmt.Errorf("key %q: %w: a token has %d characters or more", s.ID, ErrKeyInvalid, MinTokenSize)
	}
	k.hash = hashToken(s.Token)
	return k, nil
}
