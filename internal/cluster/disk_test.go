package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestIdentityStays(t *testing.T) {
	dir := t.TempDir()
	first, err := loadIdentity(dir)
	if err != nil || !uuidPattern.MatchString(first) {
		t.Fatalf("identity %q, %v", first, err)
	}
	if again, err := loadIdentity(dir); err != nil || again != first {
		t.Errorf("identity was %q and is %q, %v", first, again, err)
	}
	path := filepath.Join(dir, identityFile)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("empty file: %v, want ErrDamaged", err)
	}
	if _, err := loadIdentity(filepath.Join(dir, "missing")); err == nil {
		t.Error("no error without a directory")
	}
}

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	if what, err := loadMemory(dir, "test"); err != nil || what.Cluster != "" || what.Boots != 0 {
		t.Fatalf("first memory is %+v, %v", what, err)
	}
	saved := remembered{Cluster: "c", Members: []Member{testMember(1), testMember(2)}, Round: 3,
		Vote: []Member{testMember(1)}, Boots: 7}
	if err := saveMemory(dir, "test", saved); err != nil {
		t.Fatal(err)
	}
	got, err := loadMemory(dir, "test")
	if err != nil || got.Cluster != "c" || len(got.Members) != 2 || got.Round != 3 ||
		len(got.Vote) != 1 || got.Boots != 7 || !got.Members[1].same(saved.Members[1]) {
		t.Errorf("memory is %+v, %v", got, err)
	}
	if _, err := loadMemory(dir, "other"); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("other domain: %v, want ErrOtherCluster", err)
	}
	for _, content := range []string{"", "{", `{"format":9}`, `{"format":1,"members":[{}]}`} {
		if err := os.WriteFile(filepath.Join(dir, memoryFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadMemory(dir, "test"); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v, want ErrDamaged", content, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.json.*")); len(left) != 0 {
		t.Errorf("temporary files stay: %v", left)
	}
}
