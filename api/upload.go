package api

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/store"
)

// The media types that an upload may have; ociLayout is an archive of an OCI
// image layout.
const (
	mediaZstd = "application/zstd"
	mediaTar  = "application/x-tar"
	mediaGzip = "application/gzip"
	mediaOCI  = "application/vnd.oci.image.layout.v1+tar"
	mediaAny  = "application/octet-stream"
)

// maxUploads is how many artefacts a tenant may send at once: each costs memory
// and a place on the disk for as long as its sender likes.
const maxUploads = 8

// receiving counts the uploads under way, by tenant.
type receiving struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *receiving) begin(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n[tenant] == maxUploads {
		return false
	}
	r.n[tenant]++
	return true
}

func (r *receiving) end(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n[tenant]--; r.n[tenant] == 0 {
		delete(r.n, tenant)
	}
}

// uploadRelease takes an artefact in as the request's body. The same bytes
// twice are one release.
func (s *Server) uploadRelease(c *call, _ none) (resource.Release, error) {
	dep, err := c.deployment()
	if err != nil {
		return resource.Release{}, err
	}
	upload, err := c.uploadOf()
	if err != nil {
		return resource.Release{}, err
	}
	var f faults
	q := c.r.URL.Query()
	attribution, err := c.attribution(&f, resource.Attribution{
		ExternalWorkspaceID: q.Get("external_workspace_id"), ExternalUserID: q.Get("external_user_id"), ExternalProjectID: q.Get("external_project_id"),
	})
	if err == nil {
		err = f.err()
	}
	if err != nil {
		return resource.Release{}, err
	}
	if attribution == (miosa.Attribution{}) {
		attribution = dep.Attribution
	}
	if !s.receiving.begin(c.tenant.ID) {
		return resource.Release{}, &miosa.Error{
			Code: miosa.Limited, Public: "too_many_uploads",
			Message: fmt.Sprintf("%d uploads of yours are under way, which is the limit: send this one when one of them has ended", maxUploads),
		}
	}
	defer s.receiving.end(c.tenant.ID)
	plan, err := c.plan()
	if err != nil {
		return resource.Release{}, err
	}
	left, err := c.storageLeft(plan)
	if err != nil {
		return resource.Release{}, err
	}
	known := store.Entry{}
	if upload.SHA256 != "" {
		if known, err = s.store.Get(c.r.Context(), store.ReleaseSHAKey(dep.TenantID, dep.ID, upload.SHA256)); err != nil {
			return resource.Release{}, err
		}
	}
	switch {
	case known.Revision != 0: // it costs nothing more
	case left >= 0 && (left == 0 || c.r.ContentLength > left):
		return resource.Release{}, tooMuchStored(plan, left)
	case left >= 0:
		upload.Body = &boundedReader{upload.Body, left, tooMuchStored(plan, left)}
	}
	stored, err := s.uploads.Receive(c.r.Context(), upload)
	if err != nil {
		return resource.Release{}, err
	}
	return c.keepRelease(dep, stored, attribution)
}

// boundedReader ends with over behind left bytes.
type boundedReader struct {
	io.Reader
	left int64
	over error
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.over
	}
	return n, err
}

// uploadOf reads what the headers and the query say of the body.
func (c *call) uploadOf() (artifact.Upload, error) {
	u := artifact.Upload{Body: &patientReader{body: c.r.Body, control: http.NewResponseController(c.w)}}
	if t := c.r.Header.Get("Content-Type"); t != "" {
		media, _, err := mime.ParseMediaType(t)
		if err != nil {
			media = t
		}
		switch media {
		case mediaZstd, mediaTar, mediaGzip, mediaOCI:
			u.MediaType = media
		case "application/x-gzip":
			u.MediaType = mediaGzip
		case "application/tar":
			u.MediaType = mediaTar
		case mediaAny:
		default:
			return u, &miosa.Error{
				Code: miosa.Unsupported, Public: "unsupported_media_type",
				Message: fmt.Sprintf("an artefact cannot be %q: send %s, %s, %s or %s", t, mediaZstd, mediaTar, mediaGzip, mediaOCI),
			}
		}
	}
	// The digest is of the bytes as they come, and so is what is kept.
	if list := strings.Join(c.r.Header.Values("Content-Encoding"), ","); list != "" && !strings.EqualFold(list, "identity") {
		return u, &miosa.Error{
			Code: miosa.Unsupported, Public: "unsupported_content_encoding",
			Message: fmt.Sprintf("an artefact has no Content-Encoding (%q): say how it is compressed with its Content-Type, %s or %s", list, mediaGzip, mediaZstd),
		}
	}
	kind := c.r.URL.Query().Get("kind")
	switch kind {
	case "": // told by what is in it
		if u.MediaType == mediaOCI {
			u.Kind = miosa.KindOCI
		}
	case "rootfs", "oci", "static":
		u.Kind = miosa.Kind(kind)
	default:
		return u, invalidField("kind", "must be one of rootfs, oci, static")
	}
	var err error
	u.SHA256, err = promisedDigest(c.r.Header)
	return u, err
}

// promisedDigest is the SHA-256 of Content-Digest (RFC 9530) and of the older
// Digest header, hex; "" when neither promises one. All that are there must
// promise the same.
func promisedDigest(h http.Header) (string, error) {
	bad := &miosa.Error{
		Code: miosa.Invalid, Public: "digest_malformed",
		Message: "the digest header cannot be read: write Content-Digest: sha-256=:<base64>:",
	}
	read := func(v, open, shut string) (string, error) {
		inner, ok := strings.CutPrefix(v, open)
		inner, ok2 := strings.CutSuffix(inner, shut)
		raw, err := base64.StdEncoding.DecodeString(inner)
		if !ok || !ok2 || err != nil || len(raw) != 32 {
			return "", bad
		}
		return hex.EncodeToString(raw), nil
	}
	promised := ""
	for _, form := range []struct{ header, open, shut string }{{"Content-Digest", ":", ":"}, {"Digest", "", ""}} {
		for _, line := range h.Values(form.header) {
			for part := range strings.SplitSeq(line, ",") {
				name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
				if !ok {
					return "", bad
				}
				if !strings.EqualFold(name, "sha-256") {
					continue
				}
				sum, err := read(value, form.open, form.shut)
				if err != nil {
					return "", err
				}
				if promised != "" && promised != sum {
					return "", &miosa.Error{
						Code: miosa.Invalid, Public: "digest_mismatch",
						Message: "the headers promise two different digests, so the bytes cannot be those of both: send one",
					}
				}
				promised = sum
			}
		}
	}
	return promised, nil
}

// keepRelease makes the uploaded bytes a release of the deployment.
func (c *call) keepRelease(dep miosa.Deployment, stored artifact.Stored, attribution miosa.Attribution) (resource.Release, error) {
	err := c.updateRoom(func(tx *store.Tx) error {
		// It may have been deleted while the bytes came in.
		if _, err := c.txDeployment(tx, dep.ID); err != nil {
			return err
		}
		release, fresh, err := c.txRelease(tx, dep.ID, stored, attribution)
		if err != nil {
			return err
		}
		c.made = made{Deployment: dep.ID, Release: release.ID, Known: !fresh || !release.ReadyAt.Equal(release.CreatedAt)}
		if !fresh {
			return nil
		}
		if err := store.Save(tx, store.Releases, release); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			DeploymentID: dep.ID, Type: "release.uploaded",
			Message: fmt.Sprintf("release %s was uploaded: %d files, %d bytes", release.ID, stored.Manifest.Files, stored.Blob.Size),
			Details: map[string]string{"release_id": release.ID, "sha256": stored.Blob.SHA256},
		})
	})
	if err != nil {
		return resource.Release{}, err
	}
	if c.made.Known {
		c.status = http.StatusOK
	}
	release, err := store.Get(c.r.Context(), c.s.store, store.Releases, store.ReleaseKey(c.tenant.ID, c.made.Deployment, c.made.Release))
	if err != nil {
		return resource.Release{}, err
	}
	c.etag = release.Revision
	return c.releaseResource(release, miosa.Version{}), nil
}

// txRelease is the deployment's release of what was taken in, and whether it is
// fresh: new, or back again; then it is the caller's to save.
func (c *call) txRelease(tx *store.Tx, deploymentID string, stored artifact.Stored, attribution miosa.Attribution) (release miosa.Release, fresh bool, err error) {
	index := store.ReleaseSHAKey(c.tenant.ID, deploymentID, stored.Blob.SHA256)
	id, err := tx.Index(index)
	if err != nil {
		return release, false, err
	}
	now := c.s.now().UTC()
	if id != "" {
		if release, err = store.Load(tx, store.Releases, store.ReleaseKey(c.tenant.ID, deploymentID, id)); err != nil {
			return release, false, err
		}
		if release.Kind != stored.Kind {
			return release, false, conflict("release_kind_differs", fmt.Sprintf("these bytes are release %s of kind %s already", release.ID, release.Kind))
		}
		if release.State == miosa.ReleaseReady {
			return release, false, nil
		}
		// Its bytes had been collected; now they are back.
		if err := c.roomForRelease(tx, stored.Blob.Size); err != nil {
			return release, false, err
		}
		release.State, release.ReadyAt, release.ArchivedAt = miosa.ReleaseReady, now, miosa.Release{}.ArchivedAt
		release.Notes = stored.Notes
		return release, true, nil
	}
	if err := c.roomForRelease(tx, stored.Blob.Size); err != nil {
		return release, false, err
	}
	if id, err = c.s.newID(miosa.PrefixRelease); err != nil {
		return release, false, err
	}
	tx.SetIndex(index, id, 0)
	return miosa.Release{
		ID: id, TenantID: c.tenant.ID, DeploymentID: deploymentID, Kind: stored.Kind, State: miosa.ReleaseReady,
		SHA256: stored.Blob.SHA256, SizeBytes: stored.Blob.Size, MediaType: stored.MediaType,
		Manifest: stored.Manifest, Config: stored.Config, Notes: stored.Notes, Attribution: attribution, CreatedAt: now, ReadyAt: now,
	}, true, nil
}
