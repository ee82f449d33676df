package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// settings are the kernel's that images rely on, as machines have them that run
// Docker: see docs/images.md.
var settings = []struct{ name, value string }{
	{"net/ipv4/ip_unprivileged_port_start", "0"}, // whoever the image runs as may listen on 80
	{"net/ipv4/ping_group_range", "0 2147483647"},
	{"vm/max_map_count", "262144"}, // Elasticsearch and the like refuse to start with less
	{"fs/inotify/max_user_instances", "1024"},
	{"fs/inotify/max_user_watches", "524288"},
}

// applySettings makes them hold. One that this kernel does not have is none
// that an app could miss.
func applySettings(proc string) error {
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(proc, "sys", s.name), []byte(s.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
