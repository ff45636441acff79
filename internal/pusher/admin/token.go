package admin

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
)

// TokenFile is the name of the file in the data directory that keeps a generated token.
const TokenFile = "admin.token"

const (
	tokenSize    = 32 // bytes of randomness, twice as many hex digits
	minTokenSize = 16 // characters; a shorter file was cut off or never was a token
)

// LoadOrCreateToken returns the configured token. If that is empty, it returns the one in
// TokenFile in dataDir, which it creates, readable by its owner only, if there is none.
func LoadOrCreateToken(dataDir, configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	token, err := ReadToken(dataDir)
	if !errors.Is(err, fs.ErrNotExist) {
		return token, err
	}
	random := make([]byte, tokenSize)
	_, _ = rand.Read(random) // never fails
	token = hex.EncodeToString(random)
	if err := writeToken(dataDir, token); err != nil {
		return "", fmt.Errorf("create admin token: %w", err)
	}
	return token, nil
}

// ReadToken returns the token in TokenFile in dataDir. The error wraps fs.ErrNotExist if
// there is no such file.
func ReadToken(dataDir string) (string, error) {
	path := filepath.Join(dataDir, TokenFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	unfit := func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r)
	}
	if len(token) < minTokenSize || strings.ContainsFunc(token, unfit) {
		return "", fmt.Errorf("read admin token: %s must hold at least %d visible ASCII characters "+
			"without spaces; remove the file to have a new one generated", path, minTokenSize)
	}
	return token, nil
}

// writeToken writes the file whole or not at all.
func writeToken(dataDir, token string) error {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return err
	}
	file, err := os.CreateTemp(dataDir, TokenFile+".*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = file.WriteString(token + "\n")
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), filepath.Join(dataDir, TokenFile))
	}
	if err != nil {
		_ = os.Remove(file.Name()) // the first error tells more
	}
	return err
}
