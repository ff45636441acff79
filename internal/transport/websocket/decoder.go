package websocket

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Decoder turns the bytes of one client into messages. The zero value is ready. It keeps
// bytes only while a frame or a fragmented message is unfinished.
type Decoder struct {
	partial   []byte // the start of a frame whose rest has not come
	fragments []byte // payloads of the unfinished message
	opcode    Opcode // of the unfinished message, 0 for none
	deflated  bool   // whether the unfinished message is compressed
}

// Rules are what all connections of a server share.
type Rules struct {
	MaxMessage  int64 // bytes of one message, after decompression
	Compression bool  // whether permessage-deflate was negotiated
}

// Feed takes the next bytes, which it may change, and calls message for each complete
// message and control frame. A payload is valid only during the call. An error of message
// or a *Error ends the stream: nothing may be fed afterwards.
func (d *Decoder) Feed(data []byte, rules Rules, message func(op Opcode, payload []byte) error) error {
	if len(d.partial) > 0 {
		d.partial = append(d.partial, data...)
		data = d.partial
	}
	for len(data) > 0 {
		header, size, err := parseHeader(data)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		if err := d.check(header, rules); err != nil {
			return err
		}
		end := size + int(header.Length)
		if len(data) < end {
			break
		}
		payload := data[size:end:end]
		ws.Cipher(payload, header.Mask, 0)
		if err := d.frame(header, payload, rules, message); err != nil {
			return err
		}
		data = data[end:]
	}
	d.keep(data)
	return nil
}

// keep stores the unfinished rest, and nothing when there is none: an idle connection must
// not hold a buffer.
func (d *Decoder) keep(rest []byte) {
	switch {
	case len(rest) == 0:
		d.partial = nil
	case len(rest) == len(d.partial): // nothing was consumed: it is the buffer itself
	default:
		d.partial = append([]byte(nil), rest...)
	}
}

// parseHeader reads a frame header; size is 0 while it is incomplete.
func parseHeader(data []byte) (h ws.Header, size int, err error) {
	if len(data) < 2 {
		return h, 0, nil
	}
	h.Fin = data[0]&0x80 != 0
	h.Rsv = data[0] >> 4 & 7
	h.OpCode = Opcode(data[0] & 0xf)
	h.Masked = data[1]&0x80 != 0
	if !h.Masked {
		return h, 0, ErrUnmasked
	}
	size = 6
	h.Length = int64(data[1] & 0x7f)
	switch h.Length {
	case 126:
		size = 8
	case 127:
		size = 14
	}
	if len(data) < size {
		return h, 0, nil
	}
	switch size {
	case 8:
		h.Length = int64(binary.BigEndian.Uint16(data[2:]))
		if h.Length < 126 {
			return h, 0, ErrLength
		}
	case 14:
		length := binary.BigEndian.Uint64(data[2:])
		if length < 1<<16 || length >= 1<<63 {
			return h, 0, ErrLength
		}
		h.Length = int64(length)
	}
	copy(h.Mask[:], data[size-4:size])
	return h, size, nil
}

// check applies the rules that need no payload, so that a frame that is too large is
// refused before a byte of it is kept.
func (d *Decoder) check(h ws.Header, rules Rules) error {
	compressed := h.Rsv == 4 && rules.Compression && !h.OpCode.IsControl() && h.OpCode != ws.OpContinuation
	if h.Rsv != 0 && !compressed {
		return ErrReservedBits
	}
	if h.OpCode.IsReserved() {
		return ErrOpcode
	}
	if h.OpCode.IsControl() {
		if !h.Fin || h.Length > maxControlPayload {
			return ErrControlFrame
		}
		return nil
	}
	if (h.OpCode == ws.OpContinuation) != (d.opcode != 0) {
		return ErrFragmentation
	}
	if h.Length > rules.MaxMessage-int64(len(d.fragments)) {
		return ErrTooBig
	}
	return nil
}

// frame handles one complete, checked and unmasked frame.
func (d *Decoder) frame(h ws.Header, payload []byte, rules Rules, message func(Opcode, []byte) error) error {
	if h.OpCode.IsControl() {
		if h.OpCode == Close {
			if err := checkClose(payload); err != nil {
				return err
			}
		}
		return message(h.OpCode, payload)
	}
	if h.OpCode != ws.OpContinuation {
		if h.Fin {
			return deliver(h.OpCode, payload, h.Rsv == 4, rules, message)
		}
		d.opcode, d.deflated = h.OpCode, h.Rsv == 4
	}
	d.fragments = append(d.fragments, payload...)
	if !h.Fin {
		return nil
	}
	op, deflated, joined := d.opcode, d.deflated, d.fragments
	d.opcode, d.deflated, d.fragments = 0, false, nil
	return deliver(op, joined, deflated, rules, message)
}

func deliver(op Opcode, payload []byte, deflated bool, rules Rules, message func(Opcode, []byte) error) error {
	if deflated {
		var err error
		if payload, err = inflate(payload, rules.MaxMessage); err != nil {
			return err
		}
	}
	if op == Text && !utf8.Valid(payload) {
		return ErrUTF8
	}
	return message(op, payload)
}

func checkClose(payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 || !validCloseCode(int(binary.BigEndian.Uint16(payload))) {
		return ErrCloseFrame
	}
	if !utf8.Valid(payload[2:]) {
		return ErrUTF8
	}
	return nil
}
