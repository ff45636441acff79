package config

import (
	"math"
	"strconv"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		text string
		want int64
		err  error
	}{
		{"0", 0, nil}, {"0B", 0, nil}, {"512B", 512, nil}, {"64KiB", 65536, nil},
		{"64 kib", 65536, nil}, {"10KB", 10000, nil}, {"1MB", 1e6, nil}, {"1MiB", 1 << 20, nil},
		{"2GB", 2e9, nil}, {" 1GiB ", 1 << 30, nil}, {"9223372036854775807B", math.MaxInt64, nil},
		{"8589934592GiB", 0, errSize}, {"64", 0, errSizeUnit}, {"1.5", 0, errSizeUnit},
		{"1.5MiB", 0, errSize}, {"-1B", 0, errSize}, {"KiB", 0, errSize}, {"", 0, errSize},
		{"1K", 0, errSize}, {"99999999999999999999B", 0, errSize}, {"١B", 0, errSize},
	}
	for _, test := range tests {
		got, err := parseSize(test.text)
		if got != test.want || err != test.err {
			t.Errorf("%q: got %d, %v", test.text, got, err)
		}
	}
}

func TestParseDuration(t *testing.T) {
	tests := []struct {
		text string
		want time.Duration
		err  error
	}{
		{"0", 0, nil}, {"0s", 0, nil}, {"30s", 30 * time.Second, nil}, {" 1h30m", 90 * time.Minute, nil},
		{"1.5s", 1500 * time.Millisecond, nil}, {"30", 0, errDurationUnit},
		{"-3", 0, errDurationUnit}, {"1.5", 0, errDurationUnit}, {"-1s", 0, errNegative},
		{"", 0, errDuration}, {"soon", 0, errDuration}, {"1d", 0, errDuration},
		{"9999999h", 0, errDuration},
	}
	for _, test := range tests {
		got, err := parseDuration(test.text)
		if got != test.want || err != test.err {
			t.Errorf("%q: got %v, %v", test.text, got, err)
		}
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]uint32{"0660": 0o660, "600": 0o600, "0": 0, "0777": 0o777} {
		if got, err := parseMode(text); err != nil || uint32(got) != want {
			t.Errorf("%q: got %o, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0888", "1777", "0o660", "rw", "-1", "+660", "99999999999"} {
		if _, err := parseMode(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{
		"channels.prot": "channels.port", "transport.max_queu": "transport.max_queue",
		"offset": "port_offset", "metric.port": "metrics.port",
		"rate_limits.connects": "rate_limit.connects",
	} {
		if got := nearestKey(name, keysOf(options)); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"PARLEY_CONFG": "PARLEY_CONFIG", "PARLEY_ADMIN_TOKN": "PARLEY_ADMIN_TOKEN",
		"PARLEY_DATA_DIR": "PARLEY_NODE_DATA_DIR",
	} {
		if got := nearestVariable(name); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// FuzzUnits expects that what is accepted is not negative and says the same in base units.
func FuzzUnits(f *testing.F) {
	for _, text := range []string{"0", "64KiB", "1.5s", "30", "-1s", "9223372036854775807B", "1h2m"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseSize(text); err == nil {
			again, err := parseSize(strconv.FormatInt(n, 10) + "B")
			if n < 0 || err != nil || again != n {
				t.Errorf("size %q: %d, then %d, %v", text, n, again, err)
			}
		}
		if d, err := parseDuration(text); err == nil {
			again, err := parseDuration(d.String())
			if d < 0 || err != nil || again != d {
				t.Errorf("duration %q: %v, then %v, %v", text, d, again, err)
			}
		}
	})
}

// FuzzFile expects that every file is either accepted with sensible values or refused with
// problems that name key and place.
func FuzzFile(f *testing.F) {
	f.Add(DefaultFile())
	f.Add(appsExample)
	for _, failure := range failures {
		f.Add(failure.file)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l := newLoader()
		if d, err := parseDocument("x", []byte(text)); err != nil {
			l.unreadable("x", err)
		} else {
			l.document(d)
		}
		c, _, err := l.finish()
		if err == nil {
			if c.Port(c.Channels.Port) > maxPort || c.Transport.MaxQueue < 1 || c.Node.Name == "" {
				t.Errorf("accepted %+v", c)
			}
			for _, app := range c.Apps {
				if app.ID == "" || app.Key == "" || app.Secret == "" {
					t.Errorf("accepted app %+v", app)
				}
			}
			return
		}
		for _, problem := range l.problems {
			if problem.Key == "" || problem.Source == "" || problem.Err == nil {
				t.Errorf("problem without place: %+v", problem)
			}
		}
	})
}
