package protocol

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Sign returns the hex HMAC-SHA256 of text, the signature used all over the protocol.
func Sign(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// VerifySignature compares in constant time.
func VerifySignature(secret, text, signature string) bool {
	return hmac.Equal([]byte(Sign(secret, text)), []byte(signature))
}

// SubscriptionText is what a backend signs to let a socket subscribe. The channel data is
// part of it whenever the client sends some, on private channels too.
func SubscriptionText(socketID, channel, channelData string) string {
	if channelData == "" {
		return socketID + ":" + channel
	}
	return socketID + ":" + channel + ":" + channelData
}

// SigninText is what a backend signs to let a socket sign in.
func SigninText(socketID, userData string) string {
	return socketID + "::user::" + userData
}

// verifyAuth checks an auth field, "<key>:<signature>".
func (p *Policy) verifyAuth(auth, text string) bool {
	key, signature, found := strings.Cut(auth, ":")
	return found && key == p.Key && VerifySignature(p.Secret, text, signature)
}
