package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// newHealthcheckCommand returns the probe for container images that have no curl.
func newHealthcheckCommand() *cobra.Command {
	var url string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a node whether it is ready; exit 0 if so",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := http.Client{Timeout: timeout}
			response, err := client.Get(url)
			if err != nil {
				return fmt.Errorf("no answer: %w", err)
			}
			defer response.Body.Close()
			word, err := io.ReadAll(io.LimitReader(response.Body, 256))
			if err != nil {
				return fmt.Errorf("read the answer of %s: %w", url, err)
			}
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("%s answered %s: %s", url, response.Status, word)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", word)
			return err
		},
	}
	cmd.Flags().StringVar(&url, "url", "http://127.0.0.1:6001/ready", "address to ask")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "longest wait for the answer")
	return cmd
}
