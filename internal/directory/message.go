package directory

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// kind is the first byte of every message between directories.
type kind byte

const (
	// kindDelta: node, incarnation, number of the first change, then rows. A row with no
	// value is a removal.
	kindDelta kind = 1
	// kindDigest: node, incarnation, number of the last change, hash (8 bytes), row count.
	kindDigest kind = 2
	// kindAsk: the asker's node. Sent on the owner's subject.
	kindAsk kind = 3
	// kindSnapshot: node, incarnation, number of the last change it holds, part, parts,
	// then rows. Sent on the asker's subject.
	kindSnapshot kind = 4
)

// message is any of them, with the fields of its kind.
type message struct {
	kind        kind
	node        string
	incarnation uint64
	number      uint64 // of the first change (delta), of the last one (digest, snapshot)
	hash        uint64
	count       uint64
	part, parts uint64
	rows        []Row // a removal has a nil Value
}

// maxText bounds keys and entries, maxRow values, in bytes.
const (
	maxText = 4 << 10
	maxRow  = 64 << 10
)

var errMalformed = errors.New("malformed directory message")

func (m *message) encode() []byte {
	b := append(make([]byte, 0, 64+32*len(m.rows)), byte(m.kind))
	b = appendText(b, m.node)
	b = binary.AppendUvarint(b, m.incarnation)
	b = binary.AppendUvarint(b, m.number)
	switch m.kind {
	case kindDigest:
		b = binary.BigEndian.AppendUint64(b, m.hash)
		b = binary.AppendUvarint(b, m.count)
	case kindSnapshot:
		b = binary.AppendUvarint(b, m.part)
		b = binary.AppendUvarint(b, m.parts)
	}
	for _, row := range m.rows {
		b = appendText(b, row.Key)
		b = appendText(b, row.Entry)
		if row.Value == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(row.Value))+1)
		b = append(b, row.Value...)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// decode reads a message. Its rows share no memory with b.
func decode(b []byte) (m message, err error) {
	d := decoder{rest: b}
	m.kind = kind(d.byte())
	m.node = d.text()
	m.incarnation = d.uvarint()
	m.number = d.uvarint()
	switch m.kind {
	case kindDelta, kindAsk:
	case kindDigest:
		m.hash = d.uint64()
		m.count = d.uvarint()
	case kindSnapshot:
		m.part = d.uvarint()
		m.parts = d.uvarint()
	default:
		return m, fmt.Errorf("%w: kind %d", errMalformed, m.kind)
	}
	for len(d.rest) > 0 && !d.failed {
		row := Row{Key: d.text(), Entry: d.text()}
		if size := d.uvarint(); size > 0 {
			row.Value = d.bytes(size-1, maxRow)
		}
		m.rows = append(m.rows, row)
	}
	if d.failed {
		return m, errMalformed
	}
	return m, nil
}

// decoder reads fields and remembers the first failure.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.failed = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.failed, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) uint64() uint64 {
	if len(d.rest) < 8 {
		d.failed, d.rest = true, nil
		return 0
	}
	v := binary.BigEndian.Uint64(d.rest)
	d.rest = d.rest[8:]
	return v
}

func (d *decoder) bytes(size uint64, limit int) []byte {
	if size > uint64(limit) || size > uint64(len(d.rest)) {
		d.failed, d.rest = true, nil
		return nil
	}
	v := append([]byte{}, d.rest[:size]...)
	d.rest = d.rest[size:]
	return v
}

func (d *decoder) text() string { return string(d.bytes(d.uvarint(), maxText)) }
