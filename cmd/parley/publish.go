package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// newPublishCommand returns the quickest way to see an event arrive: it does what a
// backend with a Pusher library does, with the app's secret taken from the node.
func newPublishCommand() *cobra.Command {
	var appID, socketID string
	cmd := &cobra.Command{
		Use:   "publish CHANNEL EVENT [DATA]",
		Short: "Publish an event to a channel",
		Long: `Publish an event, as a backend does over the HTTP API. DATA is a text, usually JSON;
"-" reads it from the standard input.

` + adminHelp,
		Example: `  parley publish my-channel my-event '{"hello":"world"}'`,
		Args:    cobra.RangeArgs(2, 3),
	}
	remote := addAdminFlags(cmd)
	cmd.Flags().StringVar(&appID, "app", "", "id of the app; may be left out when there is one")
	cmd.Flags().StringVar(&socketID, "exclude", "", "id of a socket that does not get the event")
	cmd.RunE = remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
		data := "{}"
		if len(args) == 3 {
			data = args[2]
		}
		if data == "-" {
			text, err := io.ReadAll(cmd.InOrStdin())
			if err != nil {
				return fmt.Errorf("read the standard input: %w", err)
			}
			data = string(text)
		}
		app, err := findApp(cmd.Context(), client, appID)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]any{
			"channels": []string{args[0]}, "name": args[1], "data": data, "socket_id": socketID,
		})
		if err != nil {
			return fmt.Errorf("encode the event: %w", err)
		}
		if err := publish(cmd.Context(), client, app, body); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "published %s to %s of app %s\n", args[1], args[0], app.ID)
		return err
	})
	return cmd
}

// findApp returns an app with its secret: the one with the id, or the only one.
func findApp(ctx context.Context, client *admin.Client, id string) (admin.AppView, error) {
	if id == "" {
		list, err := client.ListApps(ctx)
		if err != nil {
			return admin.AppView{}, err
		}
		if len(list) != 1 {
			return admin.AppView{}, fmt.Errorf("there are %d apps: choose one with --app", len(list))
		}
		id = list[0].ID
	}
	return client.ShowApp(ctx, id, true)
}

func publish(ctx context.Context, client *admin.Client, app admin.AppView, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	path := "/apps/" + app.ID + "/events"
	query := url.Values{}
	protocol.SignRequest(app.Key, app.Secret, http.MethodPost, path, query, body, time.Now().Unix())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost,
		strings.TrimSuffix(client.Server, "/")+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("prepare the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	h := client.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	response, err := h.Do(request)
	if err != nil {
		return &admin.UnreachableError{Server: client.Server, Err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status + ": " + strings.TrimSpace(string(text)))
	}
	return nil
}
