package wire

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// The protocol's encryption hides payloads from those who only listen: keys are agreed on without
// proof of who is at the other end, all payloads of a connection have the same initial vector, and
// the tag is an MD5. TLS is what protects a connection.

// ErrSealed says that a payload cannot be opened, or that its key does not fit.
var ErrSealed = errors.New("payload is not sealed as agreed")

// SaltSize is the length of a salt in characters.
const SaltSize = aes.BlockSize

// Keys are one side's pair.
type Keys struct{ private *ecdh.PrivateKey }

// NewKeys makes a pair.
func NewKeys() (Keys, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return Keys{}, fmt.Errorf("make a key pair: %w", err)
	}
	return Keys{private}, nil
}

// Public returns the public key as it goes into a CONNECT or CONNACK.
func (k Keys) Public() string {
	return base64.StdEncoding.EncodeToString(k.private.PublicKey().Bytes())
}

// NewSalt makes a salt.
func NewSalt() string {
	const characters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var random [SaltSize]byte
	_, _ = rand.Read(random[:]) // it never fails
	for i, b := range random {
		random[i] = characters[int(b)%len(characters)]
	}
	return string(random[:])
}

// Cipher returns what both sides seal payloads with: the other side's public key and the salt are
// those of its CONNECT and the CONNACK. It wraps ErrSealed if they cannot be used.
func (k Keys) Cipher(public, salt string) (*Cipher, error) {
	raw, err := base64.StdEncoding.DecodeString(public)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", ErrSealed, err)
	}
	other, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", ErrSealed, err)
	}
	shared, err := k.private.ECDH(other)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %w", ErrSealed, err)
	}
	sum := md5.Sum([]byte(base64.StdEncoding.EncodeToString(shared)))
	return NewCipher(hex.EncodeToString(sum[:])[:aes.BlockSize], salt)
}

// Cipher seals and opens the payloads of one connection. It may be used by several goroutines.
type Cipher struct {
	block cipher.Block
	salt  [aes.BlockSize]byte
}

// NewCipher returns a Cipher of a key and a salt of 16 characters each.
func NewCipher(key, salt string) (*Cipher, error) {
	if len(key) != aes.BlockSize || len(salt) < aes.BlockSize {
		return nil, fmt.Errorf("%w: key of %d and salt of %d characters", ErrSealed, len(key), len(salt))
	}
	block, err := aes.NewCipher([]byte(key))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	c := &Cipher{block: block}
	copy(c.salt[:], salt)
	return c, nil
}

// Seal returns plain as it goes on the wire: AES-128-CBC with PKCS 7, in base64.
func (c *Cipher) Seal(plain []byte) []byte {
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	padded := make([]byte, len(plain)+padding)
	copy(padded, plain)
	for i := len(plain); i < len(padded); i++ {
		padded[i] = byte(padding)
	}
	cipher.NewCBCEncrypter(c.block, c.salt[:]).CryptBlocks(padded, padded)
	out := make([]byte, base64.StdEncoding.EncodedLen(len(padded)))
	base64.StdEncoding.Encode(out, padded)
	return out
}

// Open undoes Seal, or wraps ErrSealed.
func (c *Cipher) Open(sealed []byte) ([]byte, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(sealed)))
	n, err := base64.StdEncoding.Decode(raw, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	raw = raw[:n]
	if n == 0 || n%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: %d bytes", ErrSealed, n)
	}
	cipher.NewCBCDecrypter(c.block, c.salt[:]).CryptBlocks(raw, raw)
	padding := int(raw[n-1])
	if padding == 0 || padding > aes.BlockSize ||
		!bytes.Equal(raw[n-padding:], bytes.Repeat(raw[n-1:], padding)) {
		return nil, fmt.Errorf("%w: padding", ErrSealed)
	}
	return raw[:n-padding], nil
}

// tag returns the key of a message whose parts are joined in verify.
func (c *Cipher) tag(verify []byte) string {
	sum := md5.Sum(c.Seal(verify))
	return hex.EncodeToString(sum[:])
}

// SealSend seals the payload of a message and sets its key.
func (c *Cipher) SealSend(p *Send) {
	p.Payload = c.Seal(p.Payload)
	p.MsgKey = c.tag(p.verify())
}

// OpenSend checks the key of a message and opens its payload, or wraps ErrSealed.
func (c *Cipher) OpenSend(p *Send) (err error) {
	p.Payload, err = c.openTagged(p.Payload, p.verify(), p.MsgKey)
	return err
}

// openTagged opens a payload whose key fits; otherwise it returns it as it is.
func (c *Cipher) openTagged(payload, verify []byte, key string) ([]byte, error) {
	if c.tag(verify) != key {
		return payload, fmt.Errorf("%w: the key does not fit", ErrSealed)
	}
	plain, err := c.Open(payload)
	if err != nil {
		return payload, err
	}
	return plain, nil
}

func (p *Send) verify() []byte {
	v := make([]byte, 0, len(p.ClientMsgNo)+len(p.ChannelID)+len(p.Payload)+16)
	v = strconv.AppendUint(v, uint64(p.ClientSeq), 10)
	v = append(append(v, p.ClientMsgNo...), p.ChannelID...)
	v = strconv.AppendUint(v, uint64(p.ChannelType), 10)
	return append(v, p.Payload...)
}

// SealRecv seals the payload of a message and sets its key.
func (c *Cipher) SealRecv(p *Recv) {
	p.Payload = c.Seal(p.Payload)
	p.MsgKey = c.tag(p.verify())
}

// OpenRecv checks the key of a message and opens its payload, or wraps ErrSealed.
func (c *Cipher) OpenRecv(p *Recv) (err error) {
	p.Payload, err = c.openTagged(p.Payload, p.verify(), p.MsgKey)
	return err
}

func (p *Recv) verify() []byte {
	v := make([]byte, 0, len(p.ClientMsgNo)+len(p.FromUID)+len(p.ChannelID)+len(p.Payload)+56)
	v = strconv.AppendInt(v, p.MessageID, 10)
	v = strconv.AppendUint(v, p.MessageSeq, 10)
	v = append(v, p.ClientMsgNo...)
	v = strconv.AppendInt(v, int64(p.Timestamp), 10)
	v = append(append(v, p.FromUID...), p.ChannelID...)
	v = strconv.AppendUint(v, uint64(p.ChannelType), 10)
	return append(v, p.Payload...)
}
