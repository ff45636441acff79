package bench

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
)

// signer signs HTTP API requests and private channels as the Pusher protocol demands. It
// reuses its state, so one goroutine at a time may use it.
type signer struct {
	key  string
	mac  hash.Hash
	text []byte
	sum  []byte
}

func newSigner(key, secret string) *signer {
	return &signer{key: key, mac: hmac.New(sha256.New, []byte(secret))}
}

// appendQuery appends the query of a signed POST to path, without the question mark.
// Source: Pusher Channels HTTP API, "Authentication".
func (s *signer) appendQuery(dst []byte, path string, body []byte, unixTime int64) []byte {
	sum := md5.Sum(body)
	start := len(dst)
	dst = append(append(dst, "auth_key="...), s.key...)
	dst = strconv.AppendInt(append(dst, "&auth_timestamp="...), unixTime, 10)
	dst = append(dst, "&auth_version=1.0&body_md5="...)
	dst = hex.AppendEncode(dst, sum[:])
	s.text = append(append(append(s.text[:0], "POST\n"...), path...), '\n')
	s.text = append(s.text, dst[start:]...)
	dst = append(dst, "&auth_signature="...)
	return hex.AppendEncode(dst, s.sign())
}

// channelAuth is the "auth" of a subscription to a private channel, or to a presence channel
// with ":" and its channel_data.
// Source: Pusher Channels, "Auth signatures".
func (s *signer) channelAuth(socketID, channel string) string {
	s.text = append(append(append(s.text[:0], socketID...), ':'), channel...)
	return s.key + ":" + hex.EncodeToString(s.sign())
}

// sign returns the HMAC-SHA256 of s.text, valid until the next call.
func (s *signer) sign() []byte {
	s.mac.Reset()
	s.mac.Write(s.text)
	s.sum = s.mac.Sum(s.sum[:0])
	return s.sum
}
