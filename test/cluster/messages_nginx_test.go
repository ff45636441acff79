package cluster

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// The real client of WuKongIM and one over TCP, through the real nginx with the configuration that is
// in deploy, on three nodes, one of which is killed.
func TestMessagesBehindNGINX(t *testing.T) {
	t.Parallel()
	program := installed(t, "nginx", "/usr/sbin/nginx")
	if os.Geteuid() != 0 {
		t.Skip("Debian's nginx writes below /var/lib/nginx: only root can run it")
	}
	npm := filepath.Join("..", "e2e", "node_modules", "wukongimjssdk")
	if _, err := os.Stat(npm); err != nil {
		t.Fatalf("the npm client is missing, make test-deps installs it: %v", err)
	}
	c := start(t, "[im]\nenabled = true\nhost = \"127.0.0.1\"\nopen_api = true\n")
	base := process.FreePorts(t, 3)
	http1, ws, tcp := base, base+1, base+2
	config := filepath.Join(c.dir, "messaging.conf")
	if err := os.WriteFile(config, []byte(c.messagingConfig(http1, ws, tcp)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := launch(t, nil, program, "-e", "stderr", "-c", config, "-g", "daemon off; error_log stderr; pid "+config+".pid;")
	t.Cleanup(func() { server.Terminate() }) // its workers with it
	api := "http://" + process.Address(http1)
	eventually(t, "nginx answers", func() bool {
		response, err := http.Get(api + "/health")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	chat := exec.CommandContext(t.Context(), "node", filepath.Join("..", "e2e", "lib", "im-chat.js"),
		"ws://"+process.Address(ws), api, process.Address(tcp), strconv.Itoa(c.list[2].PID()),
		"http://"+process.Address(c.list[2].port+imHTTP))
	output, err := chat.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Fatal(err)
	}
}

// messagingConfig is the configuration in deploy with the ports of this test.
func (c *nodes) messagingConfig(http, ws, tcp int) string {
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "nginx", "messaging.conf"))
	if err != nil {
		c.Fatal(err)
	}
	replace := []string{
		"listen 15001", fmt.Sprintf("listen 127.0.0.1:%d", http), "listen 15200", fmt.Sprintf("listen 127.0.0.1:%d", ws),
		"listen 15100", fmt.Sprintf("listen 127.0.0.1:%d", tcp),
	}
	for i, host := range []string{"10.206.0.13", "10.206.0.14", "10.206.0.8"} {
		port := c.list[i].port
		replace = append(replace, host+":5001", process.Address(port+imHTTP), host+":5200", process.Address(port+imWS),
			host+":5100", process.Address(port+imTCP))
	}
	return strings.NewReplacer(replace...).Replace(string(text))
}
