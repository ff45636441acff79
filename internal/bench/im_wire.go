package bench

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// What the bench knows of the protocol of WuKongIM, version 5. It is written apart from the server's
// codec, see the package's comment.

// Types of packets.
const (
	imConnack = 2
	imSendack = 4
	imRecv    = 5
)

// imVersion is the version that the bench speaks.
const imVersion = 5

// imConn is one client's connection.
type imConn struct {
	net.Conn
	in    *bufio.Reader
	block cipher.Block // nil when payloads are plain
	iv    []byte
	uid   string
}

// dialIM connects and logs in.
func dialIM(address, uid string, timeout time.Duration) (*imConn, error) {
	nc, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return nil, err
	}
	c := &imConn{Conn: nc, in: bufio.NewReaderSize(nc, 4<<10), uid: uid}
	if err := c.login(timeout); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

func imText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// imFrame puts the first byte and the length in front of a body.
func imFrame(first byte, body []byte) []byte {
	frame := []byte{first}
	n := len(body)
	for n > 0x7f {
		frame = append(frame, byte(n)|0x80)
		n >>= 7
	}
	return append(append(frame, byte(n)), body...)
}

func (c *imConn) login(timeout time.Duration) error {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	body := []byte{imVersion, 0}
	body = imText(imText(imText(body, "bench-"+c.uid), c.uid), "")
	body = binary.BigEndian.AppendUint64(body, uint64(time.Now().UnixMilli()))
	body = imText(body, base64.StdEncoding.EncodeToString(private.PublicKey().Bytes()))
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write(imFrame(1<<4, body)); err != nil {
		return err
	}
	first, answer, err := c.frame()
	if err != nil {
		return err
	}
	if first>>4 != imConnack {
		return fmt.Errorf("the answer to CONNECT is a packet of type %d", first>>4)
	}
	if err := c.agree(first, answer, private); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// agree reads a CONNACK.
func (c *imConn) agree(first byte, body []byte, private *ecdh.PrivateKey) error {
	if first&1 != 0 && len(body) > 0 {
		body = body[1:]
	}
	if len(body) < 9 {
		return io.ErrUnexpectedEOF
	}
	if reason := body[8]; reason != 1 {
		return fmt.Errorf("refused with reason %d", reason)
	}
	key, rest, err := imCut(body[9:])
	if err != nil || key == "" {
		return err
	}
	salt, _, err := imCut(rest)
	if err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return err
	}
	public, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return err
	}
	shared, err := private.ECDH(public)
	if err != nil {
		return err
	}
	sum := md5.Sum([]byte(base64.StdEncoding.EncodeToString(shared)))
	c.iv = []byte(salt)[:aes.BlockSize]
	c.block, err = aes.NewCipher([]byte(hex.EncodeToString(sum[:])[:aes.BlockSize]))
	return err
}

func imCut(b []byte) (text string, rest []byte, err error) {
	if len(b) < 2 || len(b) < 2+int(binary.BigEndian.Uint16(b)) {
		return "", nil, io.ErrUnexpectedEOF
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return string(b[2:n]), b[n:], nil
}

// frame reads one packet. The body is valid until the next call.
func (c *imConn) frame() (first byte, body []byte, err error) {
	if first, err = c.in.ReadByte(); err != nil {
		return 0, nil, err
	}
	if first>>4 == 7 || first>>4 == 8 {
		return first, nil, nil
	}
	n := 0
	for shift := 0; ; shift += 7 {
		b, err := c.in.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		n |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
		if shift > 21 {
			return 0, nil, errors.New("a length does not end")
		}
	}
	body = make([]byte, n)
	_, err = io.ReadFull(c.in, body)
	return first, body, err
}

func (c *imConn) seal(plain []byte) []byte {
	if c.block == nil {
		return plain
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	padded := append([]byte{}, plain...)
	for range padding {
		padded = append(padded, byte(padding))
	}
	cipher.NewCBCEncrypter(c.block, c.iv).CryptBlocks(padded, padded)
	return []byte(base64.StdEncoding.EncodeToString(padded))
}

func (c *imConn) open(sealed []byte) ([]byte, error) {
	if c.block == nil {
		return sealed, nil
	}
	raw, err := base64.StdEncoding.AppendDecode(nil, sealed)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 || len(raw)%aes.BlockSize != 0 {
		return nil, errors.New("a payload is not sealed")
	}
	cipher.NewCBCDecrypter(c.block, c.iv).CryptBlocks(raw, raw)
	return raw[:len(raw)-int(raw[len(raw)-1])], nil
}

// sendFrame is a SEND of a payload to a channel of a type.
func (c *imConn) sendFrame(seq uint32, no, channel string, kind byte, persist bool, payload []byte) []byte {
	sealed := c.seal(payload)
	key := ""
	if c.block != nil {
		verify := strconv.Itoa(int(seq)) + no + channel + strconv.Itoa(int(kind)) + string(sealed)
		sum := md5.Sum(c.seal([]byte(verify)))
		key = hex.EncodeToString(sum[:])
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, seq)
	body = append(imText(imText(body, no), channel), kind)
	body = imText(binary.BigEndian.AppendUint32(body, 0), key)
	first := byte(3<<4 | 2)
	if !persist {
		first |= 1
	}
	return imFrame(first, append(body, sealed...))
}

// recvPayload returns the payload, ID and number of a RECV.
func (c *imConn) recvPayload(body []byte) (payload []byte, id, seq uint64, err error) {
	rest := body[min(1, len(body)):]
	for range 3 { // key, sender, channel
		if _, rest, err = imCut(rest); err != nil {
			return nil, 0, 0, err
		}
	}
	if len(rest) < 5 {
		return nil, 0, 0, io.ErrUnexpectedEOF
	}
	if _, rest, err = imCut(rest[5:]); err != nil { // type, expire; number of the sender
		return nil, 0, 0, err
	}
	if len(rest) < 16 {
		return nil, 0, 0, io.ErrUnexpectedEOF
	}
	id, seq = binary.BigEndian.Uint64(rest), uint64(binary.BigEndian.Uint32(rest[8:]))
	payload, err = c.open(rest[16:])
	return payload, id, seq, err
}

// ackFrame is the RECVACK of a message.
func imAckFrame(id, seq uint64) []byte {
	body := binary.BigEndian.AppendUint64(nil, id)
	return imFrame(6<<4|2, binary.BigEndian.AppendUint32(body, uint32(seq)))
}
