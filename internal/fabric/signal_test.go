package fabric_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

func TestToken(t *testing.T) {
	for text, want := range map[string]string{
		"presence-room_1=@,;":    "presence-room_1=@,;",
		"":                       "%",
		"a.b c":                  "a%2Eb%20c",
		"100%":                   "100%25",
		"ü":                      "%C3%BC",
		"*":                      "%2A",
		strings.Repeat("x", 200): strings.Repeat("x", 200),
	} {
		if got := fabric.Token(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	for _, long := range []string{strings.Repeat("x", 201), strings.Repeat("ü", 40)} {
		if got := fabric.Token(long); len(got) != 66 || !strings.HasPrefix(got, "%~") {
			t.Errorf("%q became %q", long, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { fabric.Token("private-room") }); n != 0 {
		t.Errorf("a plain text costs %v allocations", n)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a", "a.b", false}, {"a.b", "a", false},
		{"*", "a", true}, {"*", "a.b", false}, {"a.*", "a.b", true}, {"a.*", "a", false},
		{"*.b", "a.b", true}, {"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false},
		{">", "a", true}, {">", "a.b.c", true}, {"a.>", "a.b", true}, {"a.>", "a.b.c", true},
		{"a.>", "a", false}, {"a.>", "b.a", false}, {"*.>", "a.b", true}, {"*.>", "a", false},
		{"a*", "a*", true}, {"a*", "ab", false},
	} {
		if got := fabric.Matches(c.pattern, c.subject); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.subject, got)
		}
	}
}

// FuzzToken checks that a token is a single token and stands for one text only.
func FuzzToken(f *testing.F) {
	for _, pair := range [][2]string{
		{"", "%"}, {"a.b", "a%2Eb"}, {"ü", "\xfc"}, {"*", ">"}, {strings.Repeat("a", 201), strings.Repeat("a", 202)},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		token := fabric.Token(one)
		if err := fabric.CheckSubject(token); err != nil || strings.Contains(token, ".") || len(token) > 200 {
			t.Errorf("%q gives the token %q: %v", one, token, err)
		}
		if (token == fabric.Token(two)) != (one == two) {
			t.Errorf("%q and %q give %q and %q", one, two, token, fabric.Token(two))
		}
	})
}

// FuzzCheckSubject checks that what is accepted is safe to put into a protocol line, and
// matches itself.
func FuzzCheckSubject(f *testing.F) {
	for _, subject := range []string{"a", "a.b", "*", ">", "a.>", "a.>.b", "..", "a b", "ü", "a\r\nPUB"} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		plain, pattern := fabric.CheckSubject(subject), fabric.CheckPattern(subject)
		if plain == nil && pattern != nil {
			t.Errorf("%q can be published on and not subscribed to", subject)
		}
		if pattern != nil {
			if !errors.Is(pattern, fabric.ErrInvalidSubject) {
				t.Errorf("%q: %v", subject, pattern)
			}
			return
		}
		if strings.ContainsAny(subject, " \t\r\n\x00") || strings.Contains("."+subject+".", "..") ||
			len(subject) > fabric.MaxSubjectSize {
			t.Errorf("%q is accepted", subject)
		}
		if plain == nil && !fabric.Matches(subject, subject) {
			t.Errorf("%q does not match itself", subject)
		}
	})
}
