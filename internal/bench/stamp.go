package bench

import "bytes"

// A stamp carries two times through the server inside the data of an event:
//
//	~@ SSSSSSSSSSSSSSS . TTTTTTTTTTTTTTT ~
//
// (without the spaces) where S is when the event was due and T is when it was sent, both
// in nanoseconds of the run's clock. None of its bytes is changed by JSON escaping.
const (
	stampMark   = "~@"
	stampDigits = 15 // 11 days, longer than a run may last
	stampLength = len(stampMark) + stampDigits + 1 + stampDigits + 1
)

// What the data of an event looks like around its stamp and its padding.
const (
	dataHead = `{"t":"`
	dataNext = `","p":"`
	dataTail = `"}`
)

// MinPayload is the smallest size in bytes of an event's data: an object with nothing but
// its stamp.
const MinPayload = len(dataHead) + stampLength + len(dataNext) + len(dataTail)

// appendStamp appends the stamp of an event that was due and sent at these times.
func appendStamp(dst []byte, due, sent int64) []byte {
	dst = append(dst, stampMark...)
	dst = appendDigits(dst, due)
	dst = append(dst, '.')
	dst = appendDigits(dst, sent)
	return append(dst, '~')
}

func appendDigits(dst []byte, v int64) []byte {
	var digits [stampDigits]byte
	for i := stampDigits - 1; i >= 0; i-- {
		digits[i] = byte('0' + v%10)
		v /= 10
	}
	return append(dst, digits[:]...)
}

// findStamp looks for a stamp in b, first at offset hint: the frames of one channel carry
// it at the same place. It returns the offset at which it was found.
func findStamp(b []byte, hint int) (due, sent int64, at int, ok bool) {
	if due, sent, ok = stampAt(b, hint); ok {
		return due, sent, hint, true
	}
	for at = 0; ; at++ {
		i := bytes.Index(b[at:], []byte(stampMark))
		if i < 0 {
			return 0, 0, 0, false
		}
		at += i
		if due, sent, ok = stampAt(b, at); ok {
			return due, sent, at, true
		}
	}
}

func stampAt(b []byte, at int) (due, sent int64, ok bool) {
	if at < 0 || at+stampLength > len(b) {
		return 0, 0, false
	}
	b = b[at : at+stampLength]
	second := len(stampMark) + stampDigits + 1
	if string(b[:len(stampMark)]) != stampMark || b[second-1] != '.' || b[stampLength-1] != '~' {
		return 0, 0, false
	}
	due, ok = parseDigits(b[len(stampMark):][:stampDigits])
	if !ok {
		return 0, 0, false
	}
	sent, ok = parseDigits(b[second:][:stampDigits])
	return due, sent, ok
}

func parseDigits(b []byte) (v int64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int64(c-'0')
	}
	return v, true
}
