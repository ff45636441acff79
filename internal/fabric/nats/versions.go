package nats

import (
	"fmt"

	"golang.org/x/mod/semver"

	"github.com/parleyio/parley/internal/fabric"
)

// Kinds of parts whose servers may be old.
const (
	kindSignal = "signal" // stores nothing
	kindQueue  = "queue"
)

// Versions of nats-server that carry what is stored. Documents need atomic batches (2.12, where
// 2.12.0 refuses a second one), caches and locks a time to live of single messages (2.11), logs and
// blobs reads of many messages at once (2.11). All of them need conditional writes that hold in a
// cluster: with 2.9, of 16 clients that create one key at once all succeed.
const (
	versionQueue  = "v2.9.0"
	versionStored = "v2.12.1"
)

// supports returns an error that wraps fabric.ErrUnsupported if a server of that version does not
// carry a kind of part. One without a readable version is taken for new.
func supports(kind, version string) error {
	needed := versionStored
	if kind == kindQueue {
		needed = versionQueue
	}
	if v := "v" + version; !semver.IsValid(v) || semver.Compare(v, needed) >= 0 {
		return nil
	}
	carried := map[bool]string{true: "", false: " and queues"}[kind == kindQueue]
	return fmt.Errorf("%w: nats-server %s carries no %s; that needs %s or later, an older one carries signals%s only: "+
		`keep fabric.signal = "nats" and choose another fabric.driver for the rest`, fabric.ErrUnsupported,
		version, kind, needed[1:], carried)
}
