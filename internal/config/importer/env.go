package importer

import (
	"strings"

	"github.com/joho/godotenv"
)

// maxContinued bounds the lines of one quoted value.
const maxContinued = 200

// maxBroken bounds the statements that are reported before the rest of the file is left.
const maxBroken = 20

// mask stands for $ while godotenv reads a statement: it would replace references to
// variables that it does not know by nothing. They are resolved later, in all formats alike.
const mask = "\ue000"

// decodeEnv reads NAME=value statements. One that cannot be read is a problem of its own,
// so that the others are still understood.
func decodeEnv(s *source, data []byte) {
	lines := strings.Split(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); {
		if text := strings.TrimSpace(lines[i]); text == "" || text[0] == '#' {
			i++
			continue
		}
		taken := s.statement(lines[i:], i+1)
		if len(s.problems) >= maxBroken {
			return
		}
		if taken == 0 {
			s.problems = append(s.problems, syntaxProblem(s.name, i+1, "is no NAME=value statement"))
			taken = 1
		}
		i += taken
	}
}

// statement reads the statement that begins in the first line and returns how many lines it
// takes, which is 0 if it is none.
func (s *source) statement(lines []string, number int) int {
	text := ""
	for taken, line := range lines[:min(len(lines), maxContinued)] {
		text += strings.ReplaceAll(line, "$", mask) + "\n"
		values, err := godotenv.Unmarshal(text)
		if err == nil && len(values) == 1 {
			for name, value := range values {
				if name == "" || strings.Contains(name, mask) {
					return 0
				}
				value = strings.ReplaceAll(value, mask, "$")
				if s.add(name, value, number) != nil {
					return 0
				}
			}
			return taken + 1
		}
		if !strings.ContainsAny(lines[0], `"'`) {
			return 0 // only a quoted value goes on in the next line
		}
	}
	return 0
}
