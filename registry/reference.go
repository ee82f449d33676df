// Package registry reads images from OCI registries: which image a reference
// means on a platform, and its layers, whole or from where a cut connection left
// them. Every call goes through an outbound.Guard, redirects and token servers
// included; every byte is checked against the digest that named it.
package registry

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/miosa/miosa"
)

// The public error codes of this package.
const (
	CodeReference = "image_reference_invalid" // it is no reference, or a host that is none
	CodePlatform  = "image_platform"          // not for what instances run on
	CodeFormat    = "image_format"            // of a form that is not read
	CodeLogin     = "registry_login"          // credentials are missing, or refused
	CodeAbsent    = "image_not_found"         // no such repository, tag or digest
	CodeTrust     = "registry_certificate"    // the certificate is not trusted
	CodeUnreached = "registry_unreachable"    // no address, no answer, or one that may not be called
	CodeLimited   = "registry_rate_limited"   // too many pulls
	CodeFailing   = "registry_failing"        // it answers, but not as it should
	CodeDigest    = "digest_mismatch"         // the bytes are not those that were named
	CodeTooLarge  = "image_too_large"         // more bytes than are taken
)

// DefaultHost is the registry of references that name none, as docker has it.
const DefaultHost = "docker.io"

// maxReference bounds a reference, in bytes.
const maxReference = 512

// What hosts and the parts of a repository's name look like.
var (
	hostAndPort = regexp.MustCompile(`^([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)
	component   = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
)

// plainPrefix begins a reference to a registry that is spoken to without TLS.
const plainPrefix = "http://"

// Reference names an image in a registry.
type Reference struct {
	Host       string // with its port, if any; DefaultHost for docker's own
	Repository string // "library/nginx"
	Tag        string // "" beside a digest
	Digest     string // "sha256:…"; "": what the tag means at the time
	Plain      bool   // http://: without TLS
	repository name.Repository
}

// Parse reads what docker reads: "nginx", "registry.example/shop:1.4",
// "registry.example/shop@sha256:…"; http:// before it asks for no TLS. The error
// is Invalid, in words for who wrote it.
func Parse(text string) (Reference, error) {
	wrong := func(format string, args ...any) error { return invalid(CodeReference, format, args...) }
	if len(text) > maxReference {
		return Reference{}, wrong("an image reference has at most %d characters", maxReference)
	}
	rest, plain := strings.CutPrefix(text, plainPrefix)
	rest, secure := strings.CutPrefix(rest, "https://")
	if rest == "" || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Reference{}, wrong("%q is no image reference: write it like registry.example/shop:1.4", text)
	}
	if plain && secure {
		return Reference{}, wrong("%q is no image reference: write it like registry.example/shop:1.4", text)
	}
	if host, _, _ := strings.Cut(rest, "/"); (plain || secure) && host != "" && !isHost(host) {
		// Read without its scheme it would be an image of Docker Hub.
		return Reference{}, wrong("%q names the registry %q by a name without a dot: write its port, like %s", text, host, withPort(text, host))
	}
	options := []name.Option{name.WeakValidation}
	if plain {
		options = append(options, name.Insecure)
	}
	parsed, err := name.ParseReference(rest, options...)
	if err != nil {
		e := invalid(CodeReference, "%q is no image reference: write it like registry.example/shop:1.4, in lower case but for the tag", text)
		e.Err = err
		return Reference{}, e
	}
	for part := range strings.SplitSeq(parsed.Context().RepositoryStr(), "/") {
		if !component.MatchString(part) {
			return Reference{}, wrong("%q is no image reference: write it like registry.example/shop:1.4, in lower case but for the tag", text)
		}
	}
	if !hostAndPort.MatchString(shownHost(parsed.Context().RegistryStr())) {
		return Reference{}, wrong("%q names no registry: write it like registry.example/shop:1.4", text)
	}
	r := Reference{Host: shownHost(parsed.Context().RegistryStr()), Repository: parsed.Context().RepositoryStr(), Plain: plain, repository: parsed.Context()}
	switch id := parsed.(type) {
	case name.Digest:
		r.Digest = id.DigestStr()
		if !strings.HasPrefix(r.Digest, "sha256:") {
			return Reference{}, wrong("%q names a digest that is none of SHA-256", text)
		}
	case name.Tag:
		r.Tag = id.TagStr()
	}
	return r, nil
}

// isHost reports whether the first part of a reference is a host, and not of an
// image's name, as docker tells them apart.
func isHost(part string) bool { return part == "localhost" || strings.ContainsAny(part, ".:") }

// withPort is what begins with a scheme, with the scheme's own port behind its host.
func withPort(text, host string) string {
	scheme, port := "https://", ":443"
	if strings.HasPrefix(text, plainPrefix) {
		scheme, port = plainPrefix, ":80"
	}
	return scheme + host + port + strings.TrimPrefix(strings.TrimPrefix(text, scheme), host)
}

// String is the whole reference.
func (r Reference) String() string {
	out := r.Host + "/" + r.Repository
	if r.Plain {
		out = plainPrefix + out
	}
	if r.Digest != "" {
		return out + "@" + r.Digest
	}
	return out + ":" + r.Tag
}

// ParseHost is a registry's host as credentials are kept under it: with its
// port, if any, and docker's own by its one name. One without a dot has a port: no
// reference has that host otherwise.
func ParseHost(text string) (string, error) {
	host := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(text, "https://"), plainPrefix), "/"))
	switch host {
	case "index.docker.io/v1", "registry-1.docker.io", "registry.hub.docker.com":
		host = DefaultHost
	}
	parsed, err := name.NewRegistry(host, name.WeakValidation)
	if err != nil || len(host) > 260 || !hostAndPort.MatchString(host) {
		return "", invalid(CodeReference, "%q is no registry: write its host, like registry.example or registry.example:5000", text)
	}
	if !isHost(host) {
		port := 443
		if strings.HasPrefix(text, plainPrefix) {
			port = 80
		}
		return "", invalid(CodeReference, "%q is no registry that a reference could name: write its port, like %s:%d", text, host, port)
	}
	return shownHost(parsed.RegistryStr()), nil
}

func shownHost(host string) string {
	if host == name.DefaultRegistry {
		return DefaultHost
	}
	return strings.ToLower(host)
}

// Platform is an operating system and a processor.
type Platform struct{ OS, Architecture string }

// Here is what instances run on.
var Here = Platform{OS: "linux", Architecture: "amd64"}

// String is as docker writes it: "linux/amd64".
func (p Platform) String() string { return p.OS + "/" + p.Architecture }

func invalid(public, format string, args ...any) *miosa.Error {
	e := miosa.Errorf(miosa.Invalid, format, args...)
	e.Public = public
	return e
}

// shown keeps what others wrote short and printable in messages.
func shown(text string) string {
	if len(text) > 200 {
		return fmt.Sprintf("%q…", text[:200])
	}
	return fmt.Sprintf("%q", cmp.Or(text, "nothing"))
}

// Pinned is a reference with the digest that it meant: "registry.example/shop:1.4@sha256:…".
func Pinned(reference, digest string) string {
	name, _, _ := strings.Cut(reference, "@")
	return name + "@" + digest
}
