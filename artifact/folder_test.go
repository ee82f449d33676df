package artifact_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
)

// Who packed a folder instead of what is in it is told so.
func TestOneFolderIsRemarkedOn(t *testing.T) {
	const root, theApp, site = "if its root file system is to be at the root", "if the app is to be at the root", "if the site is to be at the root"
	for name, c := range map[string]struct {
		kind    miosa.Kind
		entries []Entry
		says    []string // "": nothing
	}{
		"a root file system":      {"", []Entry{Dir("shop/"), File("shop/bin/sh", ""), Dir("shop/etc/"), Dir("shop/usr/")}, []string{"one folder, /shop,", root, "tar -C shop -c ."}},
		"with what is left out":   {"", []Entry{File("./rootfs/bin/sh", ""), Dir("rootfs/dev/"), device("rootfs/dev/null")}, []string{root, "tar -C rootfs -c ."}},
		"an app":                  {"", []Entry{File("shop/package.json", "{}"), File("shop/server.js", "")}, []string{theApp, "tar -C shop -c ."}},
		"of a strange name":       {"", []Entry{File("my shop's/run", "")}, []string{`tar -C ./'my shop'\''s' -c .`}},
		"of a name not to be put": {"", []Entry{File("a\nb/run", "")}, []string{"tar -C FOLDER -c ."}},
		"a site":                  {miosa.KindStatic, []Entry{File("dist/index.html", "")}, []string{site, "tar -C dist -c ."}},
		"a site's part":           {miosa.KindStatic, []Entry{File("assets/a.css", "")}, nil},
		"where apps are":          {"", []Entry{File("app/server", "")}, nil},
		"a root file system, app": {"", []Entry{File("app/bin/sh", ""), Dir("app/etc/")}, []string{root}},
		"usr merged":              {"", []Entry{File("usr/bin/sh", ""), Dir("usr/lib/"), Dir("usr/sbin/")}, nil},
		"opt":                     {"", []Entry{File("opt/shop/server", "")}, nil},
		"two":                     {"", []Entry{File("shop/server", ""), File("shop.conf", "")}, nil},
		"a layer":                 {miosa.KindOCI, LayoutEntries(Image{Layers: [][]byte{Tar(File("shop/bin/sh", ""), Dir("shop/etc/"))}}), nil},
		"a file":                  {"", []Entry{app}, nil},
	} {
		stored, err := artifact.Receive(t.Context(), NewMemory(time.Now), artifact.Upload{Kind: c.kind, Body: bytes.NewReader(Tar(c.entries...))}, artifact.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		notes := strings.Join(stored.Notes, "\n")
		if strings.Contains(notes, "one folder") != (c.says != nil) {
			t.Errorf("%s: notes %q", name, notes)
		}
		for _, part := range c.says {
			if !strings.Contains(notes, part) {
				t.Errorf("%s: %q is not in %q", name, part, notes)
			}
		}
	}
	// An image in a folder is no root file system in any case.
	for _, saved := range SavedImages(shop()) {
		var entries []Entry
		for _, e := range saved.Entries {
			e.Name = "saved/" + e.Name
			entries = append(entries, e)
		}
		_, err := untold(t, NewMemory(time.Now), Tar(entries...))
		if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(fmt.Sprint(err), "tar -C saved -c .") {
			t.Errorf("%s: received: %v", saved.Tool, err)
		}
	}
}
