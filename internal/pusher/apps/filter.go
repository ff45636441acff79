package apps

import (
	"fmt"
	"regexp"
	"strings"
)

// Compile prepares the filter's pattern for Match. It must be called before the filter is
// shared, and again after ChannelRegexp has changed. It fails on a pattern that package
// regexp does not accept, and then Match is false for every channel.
func (f *Filter) Compile() error {
	f.compiled = nil
	if f.ChannelRegexp == "" {
		return nil
	}
	compiled, err := regexp.Compile(f.ChannelRegexp)
	if err != nil {
		return fmt.Errorf("compile webhook channel pattern: %w", err)
	}
	f.compiled = compiled
	return nil
}

// Match reports whether the channel has the prefix, has the suffix and contains a match of
// the pattern; a part that is empty lets every channel pass. The pattern may match
// anywhere in the name: ^ and $ bind it to the ends. Match may be called concurrently once
// Compile has returned. A pattern that was not compiled matches no channel.
func (f *Filter) Match(channel string) bool {
	if !strings.HasPrefix(channel, f.ChannelPrefix) || !strings.HasSuffix(channel, f.ChannelSuffix) {
		return false
	}
	if f.ChannelRegexp == "" {
		return true
	}
	return f.compiled != nil && f.compiled.MatchString(channel)
}
