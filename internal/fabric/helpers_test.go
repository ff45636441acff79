package fabric_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns fabric.Turns
		end, err := turns.Take(t.Context(), "k", 4)
		if err != nil {
			t.Fatal(err)
		}
		var order []int
		for i := range 3 {
			ctx := t.Context()
			if i == 1 { // leaves before his turn
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Second)
				defer cancel()
			}
			go func() {
				end, err := turns.Take(ctx, "k", 4)
				if i == 1 {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v", err)
					}
					return
				}
				order = append(order, i)
				end()
			}()
			synctest.Wait()
		}
		if _, err := turns.Take(t.Context(), "k", 4); !errors.Is(err, fabric.ErrFull) {
			t.Errorf("a fifth: %v", err)
		}
		other, err := turns.Take(t.Context(), "other", 1)
		if err != nil {
			t.Errorf("another key: %v", err)
		}
		other()
		time.Sleep(2 * time.Second)
		end()
		end()
		synctest.Wait()
		if fmt.Sprint(order) != "[0 2]" {
			t.Errorf("turns were taken by %v", order)
		}
	})
}

// TestAwaitIdle has a worker wait until it is idle, with a word to it and without one.
func TestAwaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var idle atomic.Bool
		wake := make(chan struct{}, 1)
		config := fabric.QueueConfig{Idle: idle.Load, Wake: wake}
		for _, step := range []struct {
			what string
			act  func()
			want time.Duration
		}{
			{"without a word", func() { idle.Store(true) }, fabric.IdleInterval},
			{"with a word", func() { idle.Store(true); wake <- struct{}{} }, 10 * time.Millisecond},
			{"with a word that is not so", func() { wake <- struct{}{}; synctest.Wait(); idle.Store(true) }, 10*time.Millisecond + fabric.IdleInterval},
			{"when it ends", cancel, 10 * time.Millisecond},
		} {
			idle.Store(false)
			began, returned := time.Now(), time.Duration(0)
			go func() {
				config.AwaitIdle(ctx)
				returned = time.Since(began)
			}()
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			step.act()
			time.Sleep(time.Second)
			synctest.Wait()
			if returned != step.want {
				t.Errorf("%s it is told after %v, want %v", step.what, returned, step.want)
			}
		}
	})
}

func TestFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var flights fabric.Flights
		loads := 0
		load := func(ctx context.Context) ([]byte, error) {
			loads++
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
				return []byte("value"), nil
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := flights.Do(impatient, "k", load); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		impatient, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		go func() { _, _ = flights.Do(impatient, "k", load) }() // begins the flight and leaves
		synctest.Wait()
		value, err := flights.Do(t.Context(), "k", load)
		if err != nil || string(value) != "value" || loads != 2 {
			t.Errorf("got %q, %v after %d loads, want 2", value, err, loads)
		}
		if _, err := flights.Do(t.Context(), "k", load); err != nil || loads != 3 {
			t.Errorf("afterwards: %v after %d loads, want 3", err, loads)
		}
	})
}

func TestInterruption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var i fabric.Interruption
		if _, was := i.Over(); was {
			t.Error("it is over before it began")
		}
		for round := range 2 {
			var told []time.Duration
			for begin := time.Now(); time.Since(begin) < 40*time.Minute; time.Sleep(6 * time.Second) {
				if lasts, tell := i.Failed(); tell {
					told = append(told, lasts)
				}
			}
			want := []time.Duration{0, 12 * time.Second, 36 * time.Second, 78 * time.Second, 162 * time.Second,
				324 * time.Second, 648 * time.Second, 1248 * time.Second, 1848 * time.Second}
			if !slices.Equal(told, want) {
				t.Errorf("round %d: told after %v, want %v", round, told, want)
			}
			if lasted, was := i.Over(); !was || lasted < 40*time.Minute {
				t.Errorf("it lasted %v, %v", lasted, was)
			}
			if _, was := i.Over(); was {
				t.Error("it is over twice")
			}
		}
	})
}
