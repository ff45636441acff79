package fabric

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// maxNameSize leaves room for the prefixes that a driver sets before a name.
const maxNameSize = 128

// CheckKey returns an error that wraps ErrInvalidKey when key cannot name a document.
func CheckKey(key string) error {
	if key == "" || len(key) > MaxKeySize || key[0] == '.' || key[len(key)-1] == '.' ||
		strings.Contains(key, "..") {
		return fmt.Errorf("document key %.300q: %w", key, ErrInvalidKey)
	}
	for i := range len(key) {
		if !isNameByte(key[i]) && !strings.ContainsRune("=./", rune(key[i])) {
			return fmt.Errorf("document key %.300q: %w", key, ErrInvalidKey)
		}
	}
	return nil
}

// CheckName returns an error that wraps ErrInvalidConfig when name cannot name a collection
// or a queue: it must be 1 to 128 ASCII letters, digits, - and _.
func CheckName(name string) error {
	if name == "" || len(name) > maxNameSize {
		return fmt.Errorf("name %.300q must have 1 to %d bytes: %w", name, maxNameSize, ErrInvalidConfig)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return fmt.Errorf("name %q may have letters, digits, - and _ only: %w", name, ErrInvalidConfig)
		}
	}
	return nil
}

// CheckValue returns an error that wraps ErrTooLarge when value is over MaxValueSize.
func CheckValue(value []byte) error {
	if len(value) > MaxValueSize {
		return fmt.Errorf("value of %d bytes, at most %d: %w", len(value), MaxValueSize, ErrTooLarge)
	}
	return nil
}

// CheckWrites returns an error that wraps ErrInvalidKey or ErrTooLarge when writes cannot be
// committed together.
func CheckWrites(writes []Write) error {
	if len(writes) > MaxWrites {
		return fmt.Errorf("%d writes, at most %d: %w", len(writes), MaxWrites, ErrTooLarge)
	}
	keys, size := make(map[string]struct{}, len(writes)), 0
	for _, w := range writes {
		if err := CheckKey(w.Key); err != nil {
			return err
		}
		if err := CheckValue(w.Value); err != nil {
			return err
		}
		if _, twice := keys[w.Key]; twice {
			return fmt.Errorf("document key %.300q comes twice: %w", w.Key, ErrInvalidKey)
		}
		keys[w.Key] = struct{}{}
		size += len(w.Value)
	}
	if size > MaxCommitSize {
		return fmt.Errorf("values of %d bytes, at most %d: %w", size, MaxCommitSize, ErrTooLarge)
	}
	return nil
}

// CheckText returns an error that wraps ErrInvalidKey when text, the free name of a cached
// value, a lock or a blob, is empty or over MaxKeySize.
func CheckText(text string) error {
	if text == "" || len(text) > MaxKeySize {
		return fmt.Errorf("%.300q must have 1 to %d bytes: %w", text, MaxKeySize, ErrInvalidKey)
	}
	return nil
}

// CheckLease returns an error that wraps ErrInvalidConfig when a lock cannot have the lease.
func CheckLease(lease time.Duration) error {
	if lease < MinLease || lease > MaxLease {
		return fmt.Errorf("lease %v is not from %v to %v: %w", lease, MinLease, MaxLease, ErrInvalidConfig)
	}
	return nil
}

// RoundTTL returns ttl in full seconds, rounded up, or an error that wraps ErrInvalidConfig
// when it is negative.
func RoundTTL(ttl time.Duration) (time.Duration, error) {
	if ttl < 0 {
		return 0, fmt.Errorf("ttl %v is negative: %w", ttl, ErrInvalidConfig)
	}
	if rest := ttl % time.Second; rest > 0 {
		ttl += time.Second - rest
	}
	return ttl, nil
}

// CheckJob returns an error that wraps ErrInvalidKey or ErrTooLarge when a queue cannot take
// the job. An empty ID is right: Enqueue sets one.
func CheckJob(job Job) error {
	if len(job.ID) > MaxKeySize || !utf8.ValidString(job.ID) {
		return fmt.Errorf("job id %.300q: %w", job.ID, ErrInvalidKey)
	}
	return CheckValue(job.Payload)
}

// Check returns an error that wraps ErrInvalidConfig and names the field that cannot be used.
func (c QueueConfig) Check() error {
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	bad := func(field string, value any) error {
		return fmt.Errorf("queue %q: %s %v is out of range: %w", c.Name, field, value, ErrInvalidConfig)
	}
	switch {
	case c.Visibility <= 0:
		return bad("Visibility", c.Visibility)
	case c.MaxJobs <= 0:
		return bad("MaxJobs", c.MaxJobs)
	case c.MaxDead <= 0:
		return bad("MaxDead", c.MaxDead)
	case c.Concurrency <= 0:
		return bad("Concurrency", c.Concurrency)
	case c.Retry.Elapsed > 0 && c.Retry.Initial <= 0: // would try again without a pause
		return bad("Retry.Initial", c.Retry.Initial)
	case c.Retry.Max < c.Retry.Initial:
		return bad("Retry.Max", c.Retry.Max)
	case c.Retry.Elapsed < 0:
		return bad("Retry.Elapsed", c.Retry.Elapsed)
	case math.IsNaN(c.Retry.Jitter) || c.Retry.Jitter < 0 || c.Retry.Jitter > 1:
		return bad("Retry.Jitter", c.Retry.Jitter)
	}
	return nil
}

func isNameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_'
}
