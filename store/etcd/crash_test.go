package etcd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
)

// A child process writes and says what was acknowledged, until it is killed;
// all of that must be there. Round by round in one directory.
func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	if dir := os.Getenv(diskEnv); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := filepath.Join(t.TempDir(), "db")
	var acknowledged []string
	for round := range 3 {
		// Other numbers of writes, so that other moments are hit.
		acknowledged = append(acknowledged, killAfter(t, dir, fmt.Sprint(round), 100+170*round)...)
		s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range acknowledged {
			if e, err := s.Get(t.Context(), key); err != nil || string(e.Value) != key {
				t.Errorf("round %d: %s holds %q, %v", round, key, e.Value, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killAfter kills a writing child once it acknowledged n writes, and returns
// all that it acknowledged by then.
func killAfter(t *testing.T, dir, round string, n int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), diskEnv+"="+dir, stageEnv+"="+round)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		key, whole := strings.CutSuffix(lines.Text(), ".")
		if !whole || !strings.HasPrefix(key, "/crash/") {
			continue // cut by the kill
		}
		if keys = append(keys, key); len(keys) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(keys) < n {
		t.Fatalf("the child ended by itself after %d writes: %v", len(keys), err)
	}
	return keys
}

func writeUntilKilled(t *testing.T, dir string) {
	s := open(t, etcd.Config{Dir: dir})
	var wg sync.WaitGroup
	for writer := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/crash/%s/%d/%d", os.Getenv(stageEnv), writer, i)
				if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: key, Value: []byte(key)}}}); err != nil {
					t.Error(err)
					return
				}
				fmt.Println(key + ".")
			}
		})
	}
	wg.Wait()
}
