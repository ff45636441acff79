//go:build linux

package linear

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// step is an operation between two moments; forEver is none.
type step struct {
	call, end     int64
	input, output any
}

// The models accept what may be and refuse what must not.
func TestModels(t *testing.T) {
	add := func(sum int64) (any, any) { return counterInput{"c", 1}, counterOutput{done, sum} }
	counter := func(call, end, sum int64) step { in, out := add(sum); return step{call, end, in, out} }
	swap := func(call, end int64, old, new string, a answerOf) step {
		return step{call, end, swapInput{"r", old, new}, a}
	}
	lock := func(call, end int64, take bool, token uint64) step {
		return step{call, end, lockInput{"l", take, token}, nil}
	}
	job := func(call, end int64, what string, a answerOf) step { return step{call, end, jobStep{"j", what}, a} }
	lost := step{1, forEver, counterInput{"c", 1}, counterOutput{answerOf: unknown}}
	for _, test := range []struct {
		name  string
		model porcupine.Model
		want  bool
		steps []step
	}{
		{"counter", counters.ToModel(), true, []step{counter(1, 5, 2), counter(2, 4, 1), lost, counter(6, 7, 4)}},
		{"counter that skips", counters.ToModel(), false, []step{counter(1, 2, 1), counter(3, 4, 3)}},
		{"counter that forgets", counters.ToModel(), false, []step{counter(1, 2, 1), counter(3, 4, 1)}},
		{"register", registers.ToModel(), true, []step{swap(1, 2, "", "a", done), swap(3, 4, "", "b", refused), swap(1, forEver, "a", "c", unknown), swap(5, 6, "c", "d", done)}},
		{"register swapped twice", registers.ToModel(), false, []step{swap(1, 2, "", "a", done), swap(3, 4, "", "b", done)}},
		{"register refused wrongly", registers.ToModel(), false, []step{swap(1, 2, "", "a", done), swap(3, 4, "a", "b", refused)}},
		{"lock", locks, true, []step{lock(1, 2, true, 5), lock(4, forEver, false, 5), lock(3, 6, true, 9)}},
		{"lock held by two", locks, false, []step{lock(1, 2, true, 5), lock(3, 4, true, 9), lock(5, 6, false, 5)}},
		{"lock with an old token", locks, false, []step{lock(1, 2, true, 5), lock(3, 4, false, 5), lock(5, 6, true, 5)}},
		{"job", jobs.ToModel(), true, []step{job(1, 4, "publish", done), job(2, 3, "deliver", done), job(5, 6, "deliver", done), job(5, 7, "finish", done), job(8, 9, "finish", done)}},
		{"job from nowhere", jobs.ToModel(), false, []step{job(1, 2, "deliver", done), job(3, 4, "publish", done)}},
		{"job that comes again", jobs.ToModel(), false, []step{job(1, 2, "publish", done), job(3, 4, "finish", done), job(5, 6, "deliver", done)}},
		{"job perhaps finished", jobs.ToModel(), true, []step{job(1, 2, "publish", unknown), job(3, forEver, "finish", unknown), job(5, 6, "deliver", done)}},
	} {
		var operations []porcupine.Operation
		for i, s := range test.steps {
			operations = append(operations, porcupine.Operation{ClientId: i, Call: s.call, Return: s.end, Input: s.input, Output: s.output})
		}
		if got := porcupine.CheckOperations(test.model, operations); got != test.want {
			t.Errorf("%s: accepted is %v", test.name, got)
		}
	}
}
