//go:build linux

package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// answerOf is what became of an operation.
type answerOf int

const (
	done    answerOf = iota
	refused          // the node said that it was not done
	unknown          // nobody knows
)

func (a answerOf) String() string { return [...]string{"done", "refused", "unknown"}[a] }

// counterInput adds to a counter, counterOutput is the sum.
type counterInput struct {
	key   string
	delta int64
}

type counterOutput struct {
	answerOf
	sum int64
}

// counters begin at 0. An addition of 0 is a read that is not stale.
var counters = porcupine.NondeterministicModel{
	Partition: byKey(func(input any) string { return input.(counterInput).key }),
	Init:      func() []any { return []any{int64(0)} },
	Step: func(state, input, output any) []any {
		sum := state.(int64) + input.(counterInput).delta
		switch o := output.(counterOutput); {
		case o.answerOf == unknown:
			return []any{state, sum}
		case o.sum == sum:
			return []any{sum}
		}
		return nil
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v gives %+v", input, output) },
}

// swapInput changes a register if it has a value, answered by answerOf.
type swapInput struct {
	key      string
	old, new string
}

// registers begin with the empty text, which stands for none.
var registers = porcupine.NondeterministicModel{
	Partition: byKey(func(input any) string { return input.(swapInput).key }),
	Init:      func() []any { return []any{""} },
	Step: func(state, input, output any) []any {
		swap := input.(swapInput)
		same := state.(string) == swap.old
		switch {
		case output.(answerOf) == unknown && same:
			return []any{state, swap.new}
		case output.(answerOf) == unknown:
			return []any{state}
		case (output.(answerOf) == done) != same:
			return nil
		case same:
			return []any{swap.new}
		}
		return []any{state}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v is %s", input, output) },
}

// lockInput takes a lock, or gives up believing to have it, with the token that was given then.
type lockInput struct {
	name  string
	take  bool
	token uint64
}

// lockState is a lock: who has it, and the greatest token.
type lockState struct {
	held  uint64 // token of the holder, 0 for nobody
	token uint64
}

// locks have one holder at a time, each with a greater token. A holder has the lock from when it is
// told so until it begins to give it back, or until the time is over that it was promised: nobody
// else may be told that it has the lock in between.
var locks = porcupine.Model{
	Partition: byKey(func(input any) string { return input.(lockInput).name }),
	Init:      func() any { return lockState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, l := state.(lockState), input.(lockInput)
		if l.take {
			return s.held == 0 && l.token > s.token, lockState{l.token, l.token}
		}
		return s.held == l.token, lockState{0, s.token}
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// jobStep is what happens to a job, answered by answerOf.
type jobStep struct {
	id   string
	what string // publish, deliver or finish
}

// What is known of a job.
const (
	jobAbsent = iota
	jobThere
	jobDone
)

// jobs are delivered once they were published, perhaps several times, and never again once it was
// answered that they are done.
var jobs = porcupine.NondeterministicModel{
	Partition: byKey(func(input any) string { return input.(jobStep).id }),
	Init:      func() []any { return []any{jobAbsent} },
	Step: func(state, input, output any) []any {
		next, fits := state, false
		switch input.(jobStep).what {
		case "publish":
			next, fits = jobThere, state == jobAbsent
		case "deliver":
			fits = state == jobThere
		case "finish":
			next, fits = jobDone, state != jobAbsent
		}
		switch {
		case output.(answerOf) == unknown && fits:
			return []any{state, next}
		case output.(answerOf) == unknown:
			return []any{state}
		case fits:
			return []any{next}
		}
		return nil
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v is %s", input, output) },
}
