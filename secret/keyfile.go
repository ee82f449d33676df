package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/miosa/miosa/disk"
)

// openKeyFile reads a key of keySize bytes, and makes a random one first if
// the file is not there. It refuses a file that others can read or change.
func openKeyFile(path string) ([]byte, error) {
	key, err := readKeyFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := createKeyFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make key file %s: %w", path, err)
	}
	// Perhaps another process made it at the same time: what lies there counts.
	return readKeyFile(path)
}

func readKeyFile(path string) (key []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("key file %s: not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("key file %s: others may use it (mode %04o); run chmod 600 on it, and consider the key known", path, info.Mode().Perm())
	case info.Size() != keySize:
		return nil, fmt.Errorf("key file %s: %d bytes, a key has %d", path, info.Size(), keySize)
	}
	key = make([]byte, keySize)
	if _, err := io.ReadFull(file, key); err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	return key, nil
}

// createKeyFile makes the file whole and synced, or not at all; it never
// replaces one (fs.ErrExist).
func createKeyFile(path string) error {
	if err := disk.MakeDir(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	file, err := disk.Create(path, 0o600)
	if err != nil {
		return err
	}
	if _, err = file.Write(key); err == nil {
		err = file.CommitNew()
	}
	return errors.Join(err, file.Discard())
}
