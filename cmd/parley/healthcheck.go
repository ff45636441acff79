package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/config"
)

// newHealthcheckCommand returns the probe for container images that have no curl.
func newHealthcheckCommand() *cobra.Command {
	var url, file string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a node whether it is ready; exit 0 if so",
		Long: `Ask a node whether it is ready; exit 0 if so. Which node: the one at --url, or the one on
this machine that the configuration describes (--config, environment, defaults).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := &http.Client{Timeout: timeout}
			if url == "" {
				var err error
				if url, err = localHealth(client, file); err != nil {
					return err
				}
			}
			word, err := askHealth(client, url)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", word)
			return err
		},
	}
	cmd.Flags().StringVarP(&file, configFlag, "c", "", "TOML file with the node's options (default $PARLEY_CONFIG)")
	cmd.Flags().StringVar(&url, "url", "", "address to ask, such as http://127.0.0.1:6001/ready")
	cmd.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "longest wait for the answer")
	return cmd
}

// localHealth returns where the node of a configuration answers, and has client trust its
// certificate.
func localHealth(client *http.Client, file string) (string, error) {
	sources := config.Sources{File: file, Environ: os.Environ()}
	if _, err := takeForeign(&sources); err != nil {
		return "", err
	}
	c, err := config.Load(sources)
	if err != nil {
		return "", fmt.Errorf("the configuration is not valid:\n%w", err)
	}
	if c.TLS.CertFile != "" {
		if client.Transport, err = trustCertificate(c.TLS); err != nil {
			return "", err
		}
	}
	server, err := localServer(c)
	return server + "/ready", err
}

func askHealth(client *http.Client, url string) (word string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 256))
	if err != nil {
		return "", fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %s", url, response.Status, text)
	}
	return string(text), nil
}
