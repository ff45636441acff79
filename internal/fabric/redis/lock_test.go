package redis

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/servers"
)

// TestLockLostWithoutServer takes the server away from a holder. It must learn that the lock is
// lost by its own clock, as the server comes back after that.
func TestLockLostWithoutServer(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(&lines{})})
	locks, err := p.Locks(t.Context(), "l")
	check(t, err)
	const lease = time.Second
	for _, hurt := range []func(){server.Pause, server.Kill} {
		held, err := locks.Acquire(t.Context(), "k", lease)
		check(t, err)
		until := held.Until()
		hurt()
		next(t, "loss", held.Lost())
		if early := time.Until(until); early > 0 {
			t.Errorf("told of the loss %v before the end of the lease", early)
		}
		if server.Running() {
			server.Resume()
		}
		if err := held.Release(t.Context()); !errors.Is(err, fabric.ErrLost) {
			t.Errorf("release: %v", err)
		}
		if _, ok := <-held.Lost(); ok {
			t.Error("it is not lost any more")
		}
		if !server.Running() {
			break
		}
		eventually(t, "the server answers", func() bool { return p.Ping(t.Context()) == nil })
	}
}

// TestLockTakenOver has another take a lock over from a holder that is late, as after a long
// pause of its process. The holder must learn of it and leave the other's lock alone.
func TestLockTakenOver(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(&lines{})})
	locks, err := p.Locks(t.Context(), "l")
	check(t, err)
	late, err := locks.Acquire(t.Context(), "k", time.Second)
	check(t, err)
	key := late.(*lock).locks.key("k")
	server.Do("HSET", key, "holder", "thief", "revision", "4000000000000000")
	next(t, "loss", late.Lost())
	if err := late.Release(t.Context()); !errors.Is(err, fabric.ErrLost) {
		t.Errorf("release: %v", err)
	}
	if holder := server.Do("HGET", key, "holder"); holder != "thief" {
		t.Errorf("the lock is held by %q", holder)
	}
}

// TestLockClockSetBack has the server give a token from the future, as if its clock had been set
// back since.
func TestLockClockSetBack(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	opened, err := p.Locks(t.Context(), "l")
	check(t, err)
	const future = uint64(4_000_000_000_000_000)
	server.Do("HSET", opened.(*locks).key("k"), "holder", "", "revision", "4000000000000000")
	for range 3 {
		held, err := opened.Acquire(t.Context(), "k", time.Minute)
		check(t, err)
		if held.Token() <= future {
			t.Errorf("token %d", held.Token())
		}
		check(t, held.Release(t.Context()))
	}
}

// TestLockKept looks at how long the server keeps what it knows of a lock.
func TestLockKept(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	opened, err := p.Locks(t.Context(), "l")
	check(t, err)
	held, err := opened.Acquire(t.Context(), "a}b {", fabric.MaxLease)
	check(t, err)
	key := opened.(*locks).key("a}b {")
	kept := func(what string, want int) {
		t.Helper()
		// Some of it may be over when a busy machine asks.
		if ttl, err := strconv.Atoi(server.Do("TTL", key)); err != nil || ttl > want || ttl < want-60 {
			t.Errorf("%s is kept for %d s, %v", what, ttl, err)
		}
	}
	kept("a lock with a lease of an hour", 14400)
	check(t, held.Release(t.Context()))
	kept("a free lock", 3600)
}

// TestLockRolledBack has a server forget what happened since a lock was taken, as a failover may. Its
// holder has it again, unless another was faster.
func TestLockRolledBack(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(&lines{})})
	opened, err := p.Locks(t.Context(), "l")
	check(t, err)
	l := opened.(*locks)
	take := func(name string) *lock {
		t.Helper()
		held, err := l.Acquire(t.Context(), name, time.Minute)
		check(t, err)
		k := held.(*lock)
		k.stop() // it is renewed by hand
		<-k.kept
		return k
	}
	for name, before := range map[string]func(name string){
		"never held": func(string) {},
		"free":       func(name string) { check(t, take(name).Release(t.Context())) },
		"of another": func(name string) { server.Do("HSET", l.key(name), "holder", "x", "lease", "1", "revision", "1") },
	} {
		before(name)
		old := ""
		if server.Do("EXISTS", l.key(name)) == "1" {
			old = server.Do("DUMP", l.key(name))
		}
		forget := func() {
			server.Do("DEL", l.key(name))
			if old != "" {
				server.Do("RESTORE", l.key(name), "0", old)
			}
		}
		if name == "of another" {
			server.Do("DEL", l.key(name))
		}
		held := take(name)
		forget()
		check(t, held.renew(t.Context()))
		if holder := server.Do("HGET", l.key(name), "holder"); holder != held.id {
			t.Errorf("%s: the lock is held by %q", name, holder)
		}
		forget()
		check(t, held.Release(t.Context()))
		if holder := server.Do("HGET", l.key(name), "holder"); holder != "" {
			t.Errorf("%s: the lock is held by %q", name, holder)
		}
		held = take(name)
		server.Do("DEL", l.key(name))
		other := take(name)
		if other.token <= held.token {
			t.Errorf("%s: token %d after %d", name, other.token, held.token)
		}
		if err := held.renew(t.Context()); !errors.Is(err, fabric.ErrLost) {
			t.Errorf("%s: renew what another has: %v", name, err)
		}
		if err := held.Release(t.Context()); !errors.Is(err, fabric.ErrLost) {
			t.Errorf("%s: release what another has: %v", name, err)
		}
		check(t, other.Release(t.Context()))
	}
}
