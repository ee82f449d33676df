package draft

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// image is what an image's configuration, or the Dockerfile that makes it, says.
type image struct {
	from       string
	command    []string // entry point and command
	ports      []int
	user       string
	stopSignal string
	health     string // Docker's health check, in words
}

// into adds what the image says to what was found already.
func (i *image) into(d *Draft) {
	own := strings.Join(i.command, " ")
	web := d.web()
	for n := range d.Services {
		d.Services[n].StopSignal = i.stopSignal
		if d.Services[n].Command == "" {
			d.Services[n].Own = own
		}
	}
	if len(i.ports) > 0 && web != nil {
		web.Port = i.ports[0]
	}
	if len(i.ports) > 1 {
		d.note(fmt.Sprintf("%s names %d ports, requests go to %d: the others are reached by nobody.", i.from, len(i.ports), i.ports[0]))
	}
	if i.user != "" {
		d.note(fmt.Sprintf("It runs as the image's user, %s.", i.user))
	}
	if i.health != "" {
		d.note(fmt.Sprintf("The image's own health check is not asked here (%s): say what is, under health.", i.health))
	}
}

// image reads the first archive in the folder that is an image: of docker save,
// or an OCI one.
func (l looking) image() *image {
	for _, pattern := range []string{"*.tar", "*.tar.gz", "*.tgz", "*.oci"} {
		names, err := fs.Glob(l.dir, pattern)
		if err != nil {
			continue
		}
		for _, name := range names {
			if found := l.archive(name); found != nil {
				found.from = name
				l.source(name)
				return found
			}
		}
	}
	return nil
}

const (
	maxEntries = 20_000  // of an archive that is looked at
	maxJSON    = 4 << 20 // bytes of its JSON together
)

func (l looking) archive(name string) *image {
	f, err := l.dir.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	var in io.Reader = bufio.NewReader(f)
	if head, _ := in.(*bufio.Reader).Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		if in, err = gzip.NewReader(in); err != nil {
			return nil
		}
	}
	return configOf(documents(in))
}

// documents are the archive's JSON files that are small, by name.
func documents(in io.Reader) map[string][]byte {
	out := map[string][]byte{}
	left := int64(maxJSON)
	archive := tar.NewReader(in)
	for range maxEntries {
		h, err := archive.Next()
		if err != nil {
			break // its end, or no tar at all
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		// What is not under blobs/ nor JSON in the first folder is no image's.
		if h.Typeflag != tar.TypeReg || h.Size > min(maxFile, left) || !strings.HasPrefix(name, "blobs/") && !strings.HasSuffix(name, ".json") {
			continue
		}
		raw, err := io.ReadAll(archive)
		if err != nil {
			break
		}
		if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{")) || bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
			out[name] = raw
			left -= int64(len(raw))
		}
	}
	return out
}

// descriptor names a blob of an OCI image.
type descriptor struct {
	MediaType string
	Digest    string
	Platform  *struct{ Architecture, OS string }
}

func blob(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

// configOf finds the image's configuration among the documents.
func configOf(files map[string][]byte) *image {
	var saved []struct{ Config string }
	if json.Unmarshal(files["manifest.json"], &saved) == nil && len(saved) > 0 {
		return parseConfig(files[path.Clean(saved[0].Config)])
	}
	at := files["index.json"]
	for range 4 { // an index may name an index
		var doc struct {
			Manifests []descriptor
			Config    *descriptor
		}
		if json.Unmarshal(at, &doc) != nil {
			return nil
		}
		if doc.Config != nil {
			return parseConfig(files[blob(doc.Config.Digest)])
		}
		next := slices.IndexFunc(doc.Manifests, func(m descriptor) bool { return m.Platform == nil || m.Platform.OS == "linux" })
		if next < 0 {
			return nil
		}
		at = files[blob(doc.Manifests[next].Digest)]
	}
	return nil
}

func parseConfig(raw []byte) *image {
	var doc struct {
		Config *struct {
			Entrypoint, Cmd  []string
			User, StopSignal string
			ExposedPorts     map[string]struct{}
			Healthcheck      *struct{ Test []string }
		} `json:"config"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &doc) != nil || doc.Config == nil {
		return nil
	}
	c := doc.Config
	out := &image{command: append(slices.Clone(c.Entrypoint), c.Cmd...), user: c.User, stopSignal: c.StopSignal}
	for port := range maps.Keys(c.ExposedPorts) {
		out.port(port)
	}
	slices.Sort(out.ports)
	if c.Healthcheck != nil && len(c.Healthcheck.Test) > 1 {
		out.health = strings.Join(c.Healthcheck.Test[1:], " ")
	}
	return out
}

// port takes "8080" or "8080/tcp".
func (i *image) port(s string) {
	number, protocol, _ := strings.Cut(s, "/")
	if n, err := strconv.Atoi(number); err == nil && n > 0 && n < 65536 && protocol != "udp" && !slices.Contains(i.ports, n) {
		i.ports = append(i.ports, n)
	}
}

var instruction = regexp.MustCompile(`(?i)^\s*(FROM|EXPOSE|CMD|ENTRYPOINT|USER|STOPSIGNAL|HEALTHCHECK)\s+(.*)$`)

// dockerfile takes hints from the last stage; what comes from its base image is
// not known.
func (l looking) dockerfile() *image {
	for _, name := range []string{"Dockerfile", "Containerfile"} {
		text := l.text(name)
		if text == "" {
			continue
		}
		l.source(name)
		out := &image{from: name}
		var entry, cmd []string
		for line := range strings.Lines(joined(text)) {
			m := instruction.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			rest := strings.TrimSpace(m[2])
			switch strings.ToUpper(m[1]) {
			case "FROM":
				*out, entry, cmd = image{from: name}, nil, nil
			case "EXPOSE":
				for port := range strings.FieldsSeq(rest) {
					out.port(port)
				}
			case "CMD":
				cmd = words(rest)
			case "ENTRYPOINT":
				entry, cmd = words(rest), nil
			case "USER":
				out.user = rest
			case "STOPSIGNAL":
				out.stopSignal = rest
			case "HEALTHCHECK":
				if !strings.EqualFold(rest, "NONE") {
					out.health = rest
				}
			}
		}
		out.command = append(entry, cmd...)
		return out
	}
	return nil
}

// joined has no comments, and each instruction on a line of its own.
func joined(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\n")
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			b.WriteString(rest + " ")
			continue
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// words are an instruction's: a JSON array, or a line for the shell.
func words(rest string) []string {
	var list []string
	if err := json.Unmarshal([]byte(rest), &list); err == nil {
		return list
	}
	return []string{rest}
}
