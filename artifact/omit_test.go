package artifact_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

func device(name string) Entry { return Entry{Name: name, Type: tar.TypeChar} }
func pipe(name string) Entry   { return Entry{Name: name, Type: tar.TypeFifo} }

// Device nodes and pipes hold their place while an archive is read, as they
// would on a disk, and are left out at its end with a note.
func TestWhatAnInstanceCannotHaveIsLeftOut(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers [][]Entry
		tree   string // besides the mount points
		notes  []string
	}{
		{"of a debootstrap", [][]Entry{{
			Dir("./"), Dir("./dev/"), device("./dev/console"), device("./dev/full"), Entry{Name: "./dev/loop0", Type: tar.TypeBlock}, Symlink("./dev/fd", "/proc/self/fd"),
			app, pipe("run/initctl"),
		}}, "app dev/fd", []string{
			"left out 3 device nodes, such as /dev/console: an instance has its own /dev",
			"left out 1 named pipe, /run/initctl: what an app needs of them it makes when it runs",
		}},
		{"of a chroot in it", [][]Entry{{app, Dir("jail/"), device("jail/dev/null"), device("jail/dev/zero"), pipe("new\nline")}}, "app jail/ jail/dev/", []string{
			"left out 2 device nodes, such as /jail/dev/null: an instance has devices in /dev alone",
			`left out 1 named pipe, "/new\nline": what an app needs of them it makes when it runs`,
		}},
		{"with two names", [][]Entry{{app, device("dev/ram"), Hardlink("dev/ram0", "dev/ram")}}, "app", []string{
			"left out 2 device nodes, such as /dev/ram: an instance has its own /dev",
		}},
		{"dev itself", [][]Entry{{app, device("dev")}}, "app", []string{
			"left out 1 device node, /dev: an instance has devices in /dev alone",
		}},
		{"replaced", [][]Entry{{app, device("x"), File("x", "y")}}, "app x", nil},
		{"in place of a file", [][]Entry{{app, File("x", "y"), pipe("x")}}, "app", []string{
			"left out 1 named pipe, /x: what an app needs of them it makes when it runs",
		}},
		{"replaced by a later layer", [][]Entry{{app, device("x"), device("d/y"), pipe("z")}, {File(".wh.x", ""), File("d", ""), File("z", "")}}, "app d z", nil},
		{"in place of a lower layer's", [][]Entry{{app, File("d/x", "1"), File("d/y", "2")}, {device("d")}}, "app", []string{
			"left out 1 device node, /d: an instance has devices in /dev alone",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var plain [][]byte
			for _, l := range c.layers {
				plain = append(plain, Tar(l...))
			}
			kinds := map[miosa.Kind][]byte{miosa.KindOCI: Layout(Image{Layers: plain})}
			if len(plain) == 1 {
				kinds[miosa.KindRootFS] = plain[0]
			}
			for kind, body := range kinds {
				s := newShelf(t)
				stored := receive(t, s, kind, body)
				if !slices.Equal(stored.Notes, c.notes) {
					t.Errorf("%s: notes %q, want %q", kind, stored.Notes, c.notes)
				}
				w := erofs.NewWriter(&scratch{})
				u, err := artifact.Unpack(t.Context(), s, stored.Blob.SHA256, kind, artifact.Limits{}, w)
				if err != nil {
					t.Fatal(err)
				}
				defer u.Close()
				sound(t, u.Tree)
				if err := w.Finish(u.Tree, [16]byte{}); err != nil {
					t.Fatal(err)
				}
				got := slices.DeleteFunc(paths(u.Tree.Root, ""), func(p string) bool {
					return slices.Contains([]string{"dev/", "proc/", "sys/", "run/", "tmp/", "etc/"}, p)
				})
				if strings.Join(got, " ") != c.tree {
					t.Errorf("%s: tree %q, want %q", kind, got, c.tree)
				}
				if u.Manifest != stored.Manifest || u.Manifest.Files != len(slices.DeleteFunc(got, func(p string) bool { return strings.HasSuffix(p, "/") })) {
					t.Errorf("%s: manifest %+v, then %+v", kind, stored.Manifest, u.Manifest)
				}
			}
		})
	}
}

// Links lead 500 times deeper than an entry's path is long: what stands there is
// left out at no more cost than elsewhere.
func TestOmittedBehindAChainOfLinks(t *testing.T) {
	layer, path := []Entry{app}, ""
	for range 10 {
		layer = append(layer, Symlink(path+"l", strings.Repeat("d/", 2000)))
		path += "l/"
	}
	layer = append(layer, device(path+"null"))
	body := Layout(Image{Layers: [][]byte{Tar(layer...)}})
	s := newShelf(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	stored := receive(t, s, miosa.KindOCI, body)
	runtime.ReadMemStats(&after)
	// Its 20,000 directories take 20 MB; the paths of all of them would be 400.
	if took := after.TotalAlloc - before.TotalAlloc; took > 100<<20 {
		t.Errorf("%d MB were allocated", took>>20)
	}
	if want := `left out 1 device node, "/` + strings.Repeat("d/", 99) + `d"…: an instance has devices in /dev alone`; !slices.Equal(stored.Notes, []string{want}) {
		t.Errorf("notes %q, want %q", stored.Notes, want)
	}
}

// An archive of devices alone is still none of an app.
func TestNothingButDevices(t *testing.T) {
	_, err := artifact.Receive(t.Context(), NewMemory(time.Now), artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(Tar(device("dev/null")))}, artifact.Limits{})
	if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(fmt.Sprint(err), "no files") {
		t.Errorf("received: %v", err)
	}
}
