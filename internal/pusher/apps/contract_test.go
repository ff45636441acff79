package apps_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/apps/appstest"
)

func TestDocumentsContract(t *testing.T) {
	appstest.Run(t, func(t *testing.T, nodes int, static ...*apps.App) (list []*apps.Registry) {
		provider := memory.New()
		log := slog.New(slog.DiscardHandler)
		for range nodes {
			documents, err := provider.Documents(t.Context(), apps.Collection)
			if err != nil {
				t.Fatal(err)
			}
			r := apps.New(static, apps.NewDocuments(documents, log), log)
			ctx, stop := context.WithCancel(context.Background())
			t.Cleanup(func() { stop(); r.Wait() })
			if err := r.Start(ctx); err != nil {
				t.Fatal(err)
			}
			list = append(list, r)
		}
		return list
	})
}
