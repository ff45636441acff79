package node

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/parleyio/parley/internal/config"
	imapi "github.com/parleyio/parley/internal/im/api"
)

// IMTokenFile is the file in the data directory that has the token of the messaging API.
const IMTokenFile = "im-token"

// imToken returns what the messaging API asks for: the configured token; in a cluster one that all
// nodes make from its secret, so that any of them takes it; else a random one. What is not configured
// is in IMTokenFile, and in NewIMToken when it was made just now.
func (n *Node) imToken() (string, error) {
	if configured := n.config.IM.ManagerToken; configured != "" {
		return configured, nil
	}
	path := filepath.Join(n.config.Node.DataDir, IMTokenFile)
	if have, err := os.ReadFile(path); err == nil && n.config.Cluster.Secret == "" {
		if token := strings.TrimSpace(string(have)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("read the token of messaging: %s is empty; remove it to have a new one made", path)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the token of messaging: %w", err)
	} else if err != nil {
		defer func() { n.NewIMToken = path }()
	}
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // it never fails
	if secret := n.config.Cluster.Secret; secret != "" {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("parley messaging API token"))
		raw = mac.Sum(nil)[:24]
	}
	token := hex.EncodeToString(raw)
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the token of messaging: %w", err)
	}
	return token, nil
}

// imLogin returns who may log in by /manager/login: the configured users, and the manager of messaging
// with the token of its API.
func (n *Node) imLogin(token string) imapi.Login {
	c := n.config.Console
	login := imapi.Login{
		Managers: map[string]imapi.Manager{}, Secret: imapi.SessionSecret(cmp.Or(c.SessionSecret, token)),
		Lifetime: c.SessionLifetime,
		Client: func(r *http.Request) string {
			host, _, _ := net.SplitHostPort(n.imClient(r))
			return host
		},
	}
	for _, text := range c.Users {
		u, _ := config.ParseConsoleUser(text) // it was checked
		login.Managers[u.Name] = imapi.Manager{Password: u.Password, Permissions: u.Permissions}
	}
	if uid := n.config.IM.ManagerUID; uid != "" {
		login.Managers[uid] = imapi.Manager{Password: token, Permissions: "*:rw"}
	}
	return login
}
