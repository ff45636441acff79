package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestForgiving has an engine fail for less and for more than an election takes.
func TestForgiving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var failure error
		check := forgiving(electionTime, func(context.Context) error { return failure })
		for _, step := range []struct {
			failure error
			wait    time.Duration
			passes  bool
		}{
			{nil, time.Second, true},
			{errors.New("no leader"), 2 * time.Second, true},
			{errors.New("no leader"), 2 * time.Second, true},
			{nil, time.Second, true},
			{errors.New("no leader"), electionTime - time.Second, true},
			{errors.New("no leader"), time.Second, true},
			{errors.New("no leader"), time.Second, false},
			{nil, time.Second, true},
			{errors.New("no leader"), time.Second, true},
		} {
			failure = step.failure
			if err := check(t.Context()); (err == nil) != step.passes {
				t.Errorf("after %v: %v", step.failure, err)
			}
			time.Sleep(step.wait)
		}
	})
}
