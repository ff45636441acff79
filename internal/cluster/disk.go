package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Files in the data directory.
const (
	identityFile = "node.id"
	memoryFile   = "cluster.json"

	memoryFormat  = 1
	maxMemorySize = 8 << 20 // bytes
)

// bootShift leaves room in an incarnation for the evictions of one run of the process.
const bootShift = 20

// memory is the content of cluster.json.
type memory struct {
	Format int    `json:"format"`
	Domain string `json:"domain"`
	remembered
}

// loadIdentity returns the node's id, made and written at the first start.
func loadIdentity(dir string) (string, error) {
	path := filepath.Join(dir, identityFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := newUUID()
		if err := writeFile(path, []byte(id+"\n")); err != nil {
			return "", fmt.Errorf("write node id: %w", err)
		}
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("read node id: %w", err)
	}
	id := strings.TrimSpace(string(content))
	if !uuidPattern.MatchString(id) {
		return "", fmt.Errorf("%w: %s has no UUID; restore it from a backup, or remove it, cluster.json "+
			"and the engine's files to start as a new node", ErrDamaged, path)
	}
	return id, nil
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// newInstance returns the mark of one run of the process.
func newInstance() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// loadMemory returns what the node remembers; nothing at the first start.
func loadMemory(dir, domain string) (remembered, error) {
	path := filepath.Join(dir, memoryFile)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return remembered{}, nil
	}
	if err != nil {
		return remembered{}, fmt.Errorf("read cluster memory: %w", err)
	}
	result, err := decodeMemory(content)
	if err != nil {
		return remembered{}, fmt.Errorf("%w: %s: %w; restore it from a backup, or remove it so that the "+
			"node finds its cluster through its seeds", ErrDamaged, path, err)
	}
	if result.Domain != domain {
		return remembered{}, fmt.Errorf("%w: this node belongs to domain %q and cluster.domain is %q; set it "+
			"back, or remove %s and the engine's files to start in the other domain without the old data",
			ErrOtherCluster, result.Domain, domain, path)
	}
	return result.remembered, nil
}

func decodeMemory(content []byte) (memory, error) {
	var result memory
	if len(content) > maxMemorySize {
		return memory{}, fmt.Errorf("more than %d bytes", maxMemorySize)
	}
	if err := json.Unmarshal(content, &result); err != nil {
		return memory{}, err
	}
	if result.Format != memoryFormat {
		return memory{}, fmt.Errorf("format %d, this program knows %d", result.Format, memoryFormat)
	}
	if len(result.Members) > MaxMembers || len(result.Vote) > MaxMembers || len(result.Forgotten) > maxForgotten {
		return memory{}, fmt.Errorf("more than %d members or %d forgotten ones", MaxMembers, maxForgotten)
	}
	for _, members := range [][]Member{result.Members, result.Vote} {
		for _, member := range members {
			if err := member.check(); err != nil {
				return memory{}, err
			}
		}
	}
	return result, nil
}

// saveMemory replaces cluster.json; on disk when it returns.
func saveMemory(dir, domain string, what remembered) error {
	content, err := json.MarshalIndent(memory{memoryFormat, domain, what}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode cluster memory: %w", err)
	}
	if err := writeFile(filepath.Join(dir, memoryFile), append(content, '\n')); err != nil {
		return fmt.Errorf("write cluster memory: %w", err)
	}
	return nil
}

// writeFile replaces a file as a whole, with mode 0600, and has it on disk.
func writeFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	syncDir(filepath.Dir(path))
	return nil
}

// syncDir has the renaming on disk where directories can be synced, which is not everywhere.
func syncDir(path string) {
	if dir, err := os.Open(path); err == nil {
		dir.Sync()
		dir.Close()
	}
}
