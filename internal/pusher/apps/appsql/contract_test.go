package appsql

import (
	"errors"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/apps/appstest"
)

func isError(err, sentinel error) bool { return errors.Is(err, sentinel) }

func TestContract(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		appstest.Run(t, func(t *testing.T, nodes int, static ...*apps.App) (list []*apps.Registry) {
			first := d.newTable(t)
			tables := []*Table{first}
			for len(tables) < nodes {
				tables = append(tables, d.table(t, first.name))
			}
			for _, n := range startNodes(t, time.Hour, static, tables...) { // only signals tell
				list = append(list, n.Registry)
			}
			return list
		})
	})
}
