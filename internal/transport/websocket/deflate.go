package websocket

import (
	"bytes"
	"compress/flate"
	"io"
	"sync"
)

// deflateTail ends every message of RFC 7692 section 7.2.2: the sync marker that the
// sender cut off, then an empty final block so that the reader sees an end.
var deflateTail = []byte{0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff}

// A flate.Writer holds about 650 KB, so writers are shared and no connection owns one;
// hence "no context takeover" in both directions.
var (
	deflaters = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is a valid constant
		return w
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// AppendDeflated appends payload compressed as RFC 7692 wants it in a frame with RSV1.
func AppendDeflated(dst, payload []byte) ([]byte, error) {
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	buf := bytes.NewBuffer(dst)
	w.Reset(buf)
	if _, err := w.Write(payload); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), deflateTail[:4]), nil
}

// inflate decompresses a message of at most limit bytes.
func inflate(payload []byte, limit int64) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	source := io.MultiReader(bytes.NewReader(payload), bytes.NewReader(deflateTail))
	if err := r.(flate.Resetter).Reset(source, nil); err != nil {
		return nil, ErrDeflate
	}
	out, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, ErrDeflate
	}
	if int64(len(out)) > limit {
		return nil, ErrTooBig
	}
	return out, nil
}
