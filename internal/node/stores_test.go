package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
)

func TestNoMajority(t *testing.T) {
	for _, test := range []struct {
		stores     int
		away       string // the nodes that are
		leaderless bool
		want       string // part of the error, empty for none
	}{
		{3, "", false, ""},
		{3, "n3", false, ""},
		{3, "n0 n3", false, ""}, // one of them has no store
		{3, "n2 n3", false, "2 of 3 missing: n2, n3"},
		{4, "n2 n3", false, "2 of 4 missing: n2, n3"},
		{5, "n2 n3", false, ""},
		{2, "n2", false, "1 of 2 missing: n2"},
		{3, "n3", true, "1 of 3 missing: n3"},
		{3, "", true, "without a leader"},
	} {
		known := crew(test.stores + 1)
		view := cluster.View{Self: "id1"}
		for _, m := range known {
			if !strings.Contains(test.away, m.Name) {
				view.Members = append(view.Members, m)
			}
		}
		err := noMajority(view, known, test.leaderless)
		if (err == nil) != (test.want == "") || err != nil && (!errors.Is(err, admin.ErrNoMajority) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%d stores without %q: %v", test.stores, test.away, err)
		}
	}
}
