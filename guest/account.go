package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// account is who the command runs as.
type account struct {
	name   string // "" when /etc/passwd does not know the uid
	uid    uint32
	gid    uint32
	groups []uint32 // supplementary
	home   string
}

// lookupAccount finds "", "name", "uid", or either with ":group" or ":gid",
// in the image's own /etc/passwd and /etc/group. Numbers need no entry there.
func lookupAccount(root, spec string) (account, error) {
	userPart, groupPart, hasGroup := strings.Cut(spec, ":")
	if userPart == "" {
		userPart = "0"
	}
	a, err := findUser(filepath.Join(root, "etc/passwd"), userPart)
	if err != nil {
		return account{}, err
	}
	groupFile := filepath.Join(root, "etc/group")
	if hasGroup {
		if a.gid, err = findGroup(groupFile, groupPart); err != nil {
			return account{}, err
		}
		return a, nil // as with Docker: a named group is the only one
	}
	if a.groups, err = memberships(groupFile, a.name); err != nil {
		return account{}, err
	}
	return a, nil
}

func findUser(path, who string) (account, error) {
	uid, numeric := parseID(who)
	a := account{uid: uid, home: "/"}
	if uid == 0 && numeric {
		a.home = "/root"
	}
	found := false
	err := eachEntry(path, 7, func(f []string) bool {
		entryUID, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 || f[0] != who && (!numeric || entryUID != uid) {
			return true
		}
		a = account{name: f[0], uid: entryUID, gid: gid, home: f[5]}
		if a.home == "" {
			a.home = "/"
		}
		found = true
		return false
	})
	if err != nil {
		return account{}, err
	}
	if !found && !numeric {
		return account{}, fmt.Errorf("user %q is not in the image's /etc/passwd", who)
	}
	return a, nil
}

func findGroup(path, who string) (uint32, error) {
	gid, numeric := parseID(who)
	found := numeric
	err := eachEntry(path, 4, func(f []string) bool {
		if f[0] != who {
			return true
		}
		if id, ok := parseID(f[2]); ok {
			gid, found = id, true
			return false
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("group %q is not in the image's /etc/group", who)
	}
	return gid, nil
}

func memberships(path, user string) ([]uint32, error) {
	if user == "" {
		return nil, nil
	}
	var groups []uint32
	err := eachEntry(path, 4, func(f []string) bool {
		for member := range strings.SplitSeq(f[3], ",") {
			if id, ok := parseID(f[2]); ok && member == user {
				groups = append(groups, id)
			}
		}
		return len(groups) < 256
	})
	return groups, err
}

// eachEntry calls f with the fields of every well-formed line until it
// returns false. A file that does not exist has no lines.
func eachEntry(path string, fields int, f func([]string) bool) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		entry := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(entry) >= fields && !f(entry) {
			return nil
		}
	}
	return nil
}

// parseID reads a uid or gid; 4294967295 means "unchanged" to the kernel and
// is none.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}
