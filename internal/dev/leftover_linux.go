package dev

import (
	"os"
	"syscall"
)

// hold makes a file that is locked until release is called or this program ends in any way.
func hold(path string) (release func(), err error) {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, err
	}
	if err := os.Rename(path+".new", path); err != nil { // so that it is never there without a lock
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}

// abandoned tells whether there is such a file that no program holds. Its nodes have ended as well,
// or are about to, see separate.
func abandoned(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
