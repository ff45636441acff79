package servers

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// TestMissing looks for servers where there are none.
func TestMissing(t *testing.T) {
	if os.Getenv("TEST_WITHOUT_SERVERS") != "" {
		t.Run("redis", func(t *testing.T) { StartRedis(t, RedisConfig{}) })
		t.Run("nats", func(t *testing.T) { StartNATS(t, 1, NATSConfig{}) })
		return
	}
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for required, want := range map[string]int{"": 0, "1": 1} {
		p := process.Start(t, process.Command{
			Args: []string{program, "-test.run=^TestMissing$"}, Dir: t.TempDir(),
			Env: []string{"TEST_WITHOUT_SERVERS=1", requireEnv + "=" + required, "PATH=" + t.TempDir()},
		})
		if code := p.Await(); code != want {
			t.Errorf("with %s=%s it ends with %d:\n%s", requireEnv, required, code, p.Output())
		}
	}
}
