package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// site is the machines of WuKongIM's multi-node page, with the addresses that the page gives them: a
// network namespace each, and one of their clients, in which they meet. Nothing of it is seen outside.
type site struct {
	*testing.T
	prefix string
}

// machines are the nodes of the page: the address inside. nginx is on the first.
var machines = []string{"10.206.0.13", "10.206.0.14", "10.206.0.8"}

// publicAddress is that of the first machine, which clients are told.
const publicAddress = "119.45.229.172"

// newSite makes the machines, or skips the test where that is not allowed.
func newSite(t *testing.T) *site {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("only root on Linux can make networks")
	}
	installed(t, "ip", "/usr/sbin/ip")
	s := &site{T: t, prefix: fmt.Sprintf("pw%d", os.Getpid())}
	if out, err := s.ip("netns", "add", s.space("lan")); err != nil {
		t.Skipf("network namespaces are not to be had: %v %s", err, out)
	}
	t.Cleanup(func() { s.must("netns", "del", s.space("lan")) })
	s.must("-n", s.space("lan"), "link", "set", "lo", "up")
	s.must("-n", s.space("lan"), "link", "add", "lan", "type", "bridge")
	s.must("-n", s.space("lan"), "addr", "add", "10.206.0.1/24", "dev", "lan")
	s.must("-n", s.space("lan"), "link", "set", "lan", "up")
	for i, address := range machines {
		space, cable := s.space(strconv.Itoa(i)), "to"+strconv.Itoa(i)
		s.must("netns", "add", space)
		t.Cleanup(func() { s.must("netns", "del", space) })
		s.must("-n", s.space("lan"), "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
		s.must("-n", s.space("lan"), "link", "set", cable, "master", "lan", "up")
		s.must("-n", space, "link", "set", "lo", "up")
		s.must("-n", space, "addr", "add", address+"/24", "dev", "eth0")
		s.must("-n", space, "link", "set", "eth0", "up")
	}
	s.must("-n", s.space("0"), "addr", "add", publicAddress+"/32", "dev", "eth0")
	s.must("-n", s.space("lan"), "route", "add", publicAddress+"/32", "dev", "lan")
	return s
}

func (s *site) space(name string) string { return s.prefix + name }

func (s *site) ip(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	return string(out), err
}

func (s *site) must(args ...string) {
	s.Helper()
	if out, err := s.ip(args...); err != nil {
		s.Errorf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

// on is a command that runs on a machine.
func (s *site) on(machine string, args ...string) []string {
	return append([]string{"ip", "netns", "exec", s.space(machine)}, args...)
}

// The files of the page and the configuration in deploy, none of them changed: three nodes with their
// wk.yaml, two of which "parley config import" has turned into Parley's own, the real nginx in front,
// and clients that are told where to connect.
func TestMessagesReferenceSite(t *testing.T) {
	t.Parallel()
	nginx := installed(t, "nginx", "/usr/sbin/nginx")
	s := newSite(t)
	dir := t.TempDir()
	var nodes []*process.Process
	var token string
	for i := range machines {
		home := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		file, err := filepath.Abs(filepath.Join("..", "..", "internal", "config", "importer", "testdata", "reference", fmt.Sprintf("wukongim-node%d-wk.yaml", i+1)))
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			imported := filepath.Join(home, "parley.toml")
			if out, err := exec.Command(parley, "config", "import", file, "--output", imported).CombinedOutput(); err != nil {
				t.Fatalf("import: %v\n%s", err, out)
			}
			file = imported
		}
		nodes = append(nodes, process.Start(t, process.Command{
			Args: s.on(strconv.Itoa(i), parley, "serve", "--config", file), Dir: home,
			Env: []string{"PARLEY_CLUSTER_SECRET=" + trialSecret},
		}))
	}
	config, err := filepath.Abs(filepath.Join("..", "..", "deploy", "nginx", "messaging.conf"))
	if err != nil {
		t.Fatal(err)
	}
	server := process.Start(t, process.Command{Args: s.on("0", nginx, "-e", "stderr", "-c", config, "-g",
		"daemon off; error_log stderr; pid "+filepath.Join(dir, "nginx.pid")+";")})
	t.Cleanup(func() { server.Terminate() }) // its workers with it
	for i, n := range nodes {
		eventually(t, machines[i]+" is ready", func() bool {
			if !n.Running() {
				t.Fatalf("%s has ended", machines[i])
			}
			return strings.Contains(n.Output(), "msg=ready")
		})
		text, err := os.ReadFile(filepath.Join(dir, strconv.Itoa(i), "parley-data", "im-token"))
		if err != nil {
			t.Fatal(err)
		}
		if own := strings.TrimSpace(string(text)); token == "" || own == token {
			token = own
		} else {
			t.Errorf("%s asks for another token than the first", machines[i])
		}
	}
	command := s.on("lan", "node", filepath.Join("..", "e2e", "lib", "im-chat.js"), "route", "http://"+publicAddress+":15001",
		publicAddress+":15100", strconv.Itoa(nodes[2].PID()), "http://"+machines[2]+":5001")
	chat := exec.CommandContext(t.Context(), command[0], command[1:]...)
	chat.Env = append(process.Environment(), "IM_TOKEN="+token)
	output, err := chat.CombinedOutput()
	t.Logf("%s", output)
	if err != nil {
		t.Fatal(err)
	}
}
