package nats

import (
	"context"
	"errors"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

// TestSettledOnItsWay has a job delivered again, as if the lease of the first delivery had run out, and
// settled by who had it first when it is already on its way: then it must not be done again.
func TestSettledOnItsWay(t *testing.T) {
	for _, settled := range []bool{false, true} {
		ctx, p := open(t)
		q := openTestQueue(ctx, t, p)
		_, err := q.Enqueue(ctx, fabric.Job{ID: "job"})
		check(t, err)
		first := pullOne(t, q)
		check(t, first.Nak())
		second := pullOne(t, q)
		if settled {
			_, err = p.conn.RequestWithContext(ctx, first.Reply, []byte("+ACK"))
			check(t, err)
			wantState(ctx, t, q, 0, 0)
		}
		handled, missed := 0, 0
		w := &worker{queue: q, handler: func(context.Context, fabric.Job) error {
			handled++
			return errors.New("not now")
		}}
		d, ok := w.read(second)
		if !ok {
			t.Fatal("it cannot be read")
		}
		w.attempt(ctx, d, func() { missed++ })
		if want := map[bool]int{true: 0, false: 1}[settled]; handled != want || missed != 1-want {
			t.Errorf("settled %v: it was handled %d times and missed %d times", settled, handled, missed)
		}
	}
}
