package cluster

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The hello protocol, one question a connection. Every frame is a length (4 bytes, big
// endian) and that many bytes of JSON.
//
//	asker                                     asked
//	greeting  {protocol, domain, nonce}  ──▶
//	                                     ◀──  greeting  {protocol, domain, nonce} or refusal
//	sealed    {mac, body: statement}     ──▶
//	                                     ◀──  sealed    {mac, body: statement}    or refusal
//
// A mac is HMAC-SHA-256 over who speaks, both greetings as they were sent, and the body,
// under a key derived from the cluster secret. Both nonces are in it, so a recorded proof is
// worth nothing, and the asked side reveals nothing before it has seen a proof. A refusal has
// no mac: it is advice for the log and nothing is decided on it.
const (
	helloProtocol = "parley-hello/1"
	helloKeyInfo  = "parley cluster hello v1"

	maxGreetingSize = 2 << 10  // bytes, greeting and refusal
	maxQuestionSize = 64 << 10 // bytes of the asker's sealed frame, which anybody may send
	maxAnswerSize   = 4 << 20  // bytes of the sealed frame of the asked
	nonceSize       = 16       // bytes

	speakerAsker = "asker"
	speakerAsked = "asked"
)

// Codes of a refusal.
const (
	refusedProtocol = "protocol"
	refusedDomain   = "domain"
	refusedSecret   = "secret"
)

// errFrame says that bytes are not a frame of this protocol.
var errFrame = errors.New("malformed hello frame")

// errSpeaksTLS says that what came where a frame should begin is TLS.
var errSpeaksTLS = fmt.Errorf("%w: TLS", errFrame)

// First two bytes of TLS records that a peer sends first, or when it does not understand.
var tlsRecords = [][]byte{{0x16, 3}, {0x15, 3}}

// greeting opens a connection, in both directions. Refusal is set by the asked side only.
type greeting struct {
	Protocol string `json:"protocol"`
	Domain   string `json:"domain"`
	Nonce    []byte `json:"nonce,omitempty"`
	Refusal  string `json:"refusal,omitempty"`
}

// sealed carries a statement with its proof, or a refusal.
type sealed struct {
	MAC     []byte          `json:"mac,omitempty"`
	Body    json.RawMessage `json:"body,omitempty"`
	Refusal string          `json:"refusal,omitempty"`
}

// phase is how far a node is with its cluster.
type phase string

const (
	phaseSeeking phase = "seeking" // asks its seeds
	phaseFormed  phase = "formed"  // has decided; its members may be joined
)

// statement is what a node says of itself and of what it knows. Both sides make one; the
// asker's leaves out Members, Heard and Forgotten.
type statement struct {
	Oldest  int    `json:"oldest"` // versions spoken
	Newest  int    `json:"newest"`
	Phase   phase  `json:"phase"`
	Self    Member `json:"self"`
	Cluster string `json:"cluster,omitempty"` // cluster id: formed, or remembered from before
	Expect  int    `json:"expect,omitempty"`  // bootstrap_expect
	// Members are those of Cluster, dead ones too.
	Members []Member `json:"members,omitempty"`
	// Forgotten are the ids of nodes that were taken out of Cluster for good.
	Forgotten []string `json:"forgotten,omitempty"`
	// Heard are hello addresses of others that ask.
	Heard []string `json:"heard,omitempty"`
	// Round, Proposal and Vote are those of the founding, see seeker.
	Round    uint64   `json:"round,omitempty"`
	Proposal []string `json:"proposal,omitempty"`
	Vote     []string `json:"vote,omitempty"`
}

// check refuses a statement that must not be believed even from one who has the secret.
func (s statement) check() error {
	if s.Phase != phaseSeeking && s.Phase != phaseFormed {
		return fmt.Errorf("phase %.20q is unknown", s.Phase)
	}
	if len(s.Members) > MaxMembers || len(s.Proposal) > MaxMembers || len(s.Vote) > MaxMembers ||
		len(s.Heard) > maxLearned || len(s.Forgotten) > maxForgotten {
		return fmt.Errorf("more than %d members or %d addresses", MaxMembers, maxLearned)
	}
	if s.Phase == phaseFormed && s.Cluster == "" {
		return errors.New("formed without a cluster id")
	}
	if len(s.Cluster) > maxNameSize || s.Round > maxCounter {
		return errors.New("cluster id is too long or round too large")
	}
	for _, member := range append([]Member{s.Self}, s.Members...) {
		if err := member.check(); err != nil {
			return fmt.Errorf("member: %w", err)
		}
	}
	for _, address := range s.Heard {
		if err := checkHostPort(address); err != nil {
			return err
		}
	}
	for _, ids := range [][]string{s.Proposal, s.Vote, s.Forgotten} {
		for _, id := range ids {
			if !uuidPattern.MatchString(id) {
				return fmt.Errorf("node id %.50q is malformed", id)
			}
		}
	}
	return nil
}

// compatible says whether the speaker shares a version with this program.
func (s statement) compatible() bool {
	return s.Oldest <= versionNewest && s.Newest >= versionOldest
}

// helloKey derives the key of the proofs from the cluster secret.
func helloKey(secret string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, helloKeyInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive hello key: %w", err)
	}
	return key, nil
}

// newGreeting makes the opening frame of one side with a fresh nonce.
func newGreeting(domain string) greeting {
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails
	return greeting{Protocol: helloProtocol, Domain: domain, Nonce: nonce}
}

// checkGreeting returns the refusal that a greeting deserves, or "".
func checkGreeting(g greeting, domain string) string {
	switch {
	case g.Protocol != helloProtocol:
		return refusedProtocol
	case g.Domain != domain:
		return refusedDomain
	case len(g.Nonce) != nonceSize:
		return refusedProtocol
	}
	return ""
}

// transcript is what both sides have sent before the proofs, byte by byte.
func transcript(asker, asked []byte) []byte {
	sum := sha256.New()
	for _, frame := range [][]byte{asker, asked} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(frame)))
		sum.Write(size[:])
		sum.Write(frame)
	}
	return sum.Sum(nil)
}

// proof is the mac of a body. The transcript has a fixed size, so parts cannot shift.
func proof(key []byte, speaker string, transcript, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(speaker))
	mac.Write(transcript)
	mac.Write(body)
	return mac.Sum(nil)
}

// seal encodes a statement with its proof.
func seal(key []byte, speaker string, transcript []byte, s statement) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	return json.Marshal(sealed{MAC: proof(key, speaker, transcript, body), Body: body})
}

// open checks the proof of a sealed frame and decodes its statement. ErrSecret if the proof
// is not one, or if the other side refused ours.
func open(key []byte, speaker string, transcript, frame []byte) (statement, error) {
	var envelope sealed
	if err := json.Unmarshal(frame, &envelope); err != nil {
		return statement{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	if envelope.Refusal == refusedSecret {
		return statement{}, ErrSecret
	}
	// The mac was made over compact JSON; a RawMessage keeps what was sent.
	if !hmac.Equal(envelope.MAC, proof(key, speaker, transcript, envelope.Body)) {
		return statement{}, ErrSecret
	}
	var result statement
	if err := json.Unmarshal(envelope.Body, &result); err != nil {
		return statement{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	if err := result.check(); err != nil {
		return statement{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	return result, nil
}

// writeFrame sends one frame of at most limit bytes.
func writeFrame(w io.Writer, body []byte, limit int) error {
	if len(body) > limit {
		return fmt.Errorf("%w: %d bytes, at most %d", errFrame, len(body), limit)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

// readFrame reads one frame. The length is checked before anything is kept for it, and
// memory grows with what comes, not with what is announced.
func readFrame(r io.Reader, limit int) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(tlsRecords, func(r []byte) bool { return bytes.HasPrefix(size[:], r) }) {
		return nil, errSpeaksTLS // as a length it would be beyond every limit
	}
	length := binary.BigEndian.Uint32(size[:])
	if length == 0 || int64(length) > int64(limit) {
		return nil, fmt.Errorf("%w: length %d, at most %d", errFrame, length, limit)
	}
	var body bytes.Buffer
	if n, err := io.CopyN(&body, r, int64(length)); err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes: %w", errFrame, n, length, err)
	}
	return body.Bytes(), nil
}

// decodeGreeting reads the opening frame of the other side.
func decodeGreeting(frame []byte) (greeting, error) {
	var result greeting
	if err := json.Unmarshal(frame, &result); err != nil {
		return greeting{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	if len(result.Domain) > maxNameSize {
		return greeting{}, fmt.Errorf("%w: domain of %d bytes", errFrame, len(result.Domain))
	}
	return result, nil
}
