package artifact

import (
	"strings"
)

// maxName is the longest single name Linux file systems hold, in bytes.
const maxName = 255

// splitPath turns an archive's entry name into its parts below the root. The
// root itself ("." or "./") has none. A leading slash is refused unless
// rooted, where it means the image's own root.
func splitPath(name string, maxLength int, rooted bool) ([]string, error) {
	switch {
	case name == "":
		return nil, refused(name, "has an empty name")
	case len(name) > maxLength:
		return nil, refused(name, "has a path of %d bytes; at most %d are allowed", len(name), maxLength)
	case strings.IndexByte(name, 0) >= 0:
		return nil, refused(name, "has a NUL byte in its name")
	case name[0] == '/' && !rooted:
		return nil, refused(name, "has an absolute path; make the archive with relative paths (tar -C DIR .)")
	}
	parts := make([]string, 0, strings.Count(name, "/")+1)
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return nil, refused(name, "has a path with \"..\" in it")
		case len(part) > maxName:
			return nil, refused(name, "has a name of %d bytes in its path; at most %d are allowed", len(part), maxName)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// escapes reports whether a symbolic link in a directory depth levels below
// the root climbs past the root on its way. Absolute targets start at the
// image's own root.
func escapes(depth int, target string) bool {
	if strings.HasPrefix(target, "/") {
		depth = 0
	}
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
