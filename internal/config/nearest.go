package config

import (
	"slices"
	"strings"
)

// keysOf returns the keys of the fields.
func keysOf[S any](fields []field[S]) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

// groupsOf returns the tables that the keys lie in.
func groupsOf[S any](fields []field[S]) []string {
	var groups []string
	for _, f := range fields {
		group, _, found := strings.Cut(f.key, ".")
		if found && !slices.Contains(groups, group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// lastPart returns what follows the last dot.
func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// A name is compared with a known one as a whole, and by its last part alone in case the
// table is wrong or missing. The latter must be nearer by more than one edit.
func edits(whole, last int) int { return min(2*whole, 2*last+3) }

// NearestKey returns the key of the option whose spelling is nearest to name.
func NearestKey(name string) string { return nearestKey(name, keysOf(options)) }

// nearestKey returns the known key that takes the fewest edits to become name.
func nearestKey(name string, known []string) string {
	best, least := "", 0
	for _, key := range known {
		n := edits(distance(name, key), distance(lastPart(name), lastPart(key)))
		if best == "" || n < least {
			best, least = key, n
		}
	}
	return best
}

// nearestVariable returns the environment variable that takes the fewest edits to become
// name.
func nearestVariable(name string) string {
	best, least := envFile, 2*distance(name, envFile)
	for _, f := range options {
		short := envPrefix + strings.ToUpper(lastPart(f.key))
		n := edits(distance(name, f.environment()), distance(name, short))
		if n < least {
			best, least = f.environment(), n
		}
	}
	return best
}

// maxCompared bounds the bytes of a name that distance looks at, because its time grows
// with the product of the lengths.
const maxCompared = 100

// distance counts the insertions, deletions, replacements and swaps of neighbours that
// turn a into b (optimal string alignment).
func distance(a, b string) int {
	a, b = a[:min(len(a), maxCompared)], b[:min(len(b), maxCompared)]
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
