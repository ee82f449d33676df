package resource

import (
	"bytes"
	"encoding/json"
	"time"
)

// Registry is a login to a registry that images are pulled from.
type Registry struct {
	ID                  string    `json:"id"`
	Host                string    `json:"host" doc:"With its port, if any."`
	Username            *string   `json:"username" doc:"null: images are pulled as nobody; there is only a certificate."`
	HasCACertificate    bool      `json:"has_ca_certificate"`
	ExternalWorkspaceID *string   `json:"external_workspace_id" doc:"Publishes by its keys use this login, and no others do; null: those of keys of the whole tenant."`
	CreatedAt           time.Time `json:"created_at"`
	UpdatedAt           time.Time `json:"updated_at"`
}

// RegistrySet logs in to a registry.
type RegistrySet struct {
	Host          string `json:"host" required:"true" doc:"Of the registry, with its port: registry.example:5000. Docker's own is docker.io."`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty" doc:"Or a token. Stored sealed, never shown."`
	CACertificate string `json:"ca_certificate,omitempty" doc:"PEM: what the registry is trusted by besides the system's authorities. Without a username it may stand alone."`
}

// PublishImage names an image in a registry. On the wire it may be the reference
// alone, as a string.
type PublishImage struct {
	Reference string `json:"reference" required:"true" doc:"registry.example/shop:1.4, or …@sha256:…; without a host of docker.io. http:// before it: without TLS, to addresses that the operator allows."`
	Platform  string `json:"platform,omitempty" doc:"Default, and all that instances run on here: linux/amd64."`
}

// OrText marks what may be written as a string, for the OpenAPI document and the
// body checker.
func (PublishImage) OrText() {}

// UnmarshalJSON takes an object, or a string.
func (i *PublishImage) UnmarshalJSON(raw []byte) error {
	if raw = bytes.TrimSpace(raw); len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &i.Reference)
	}
	type plain PublishImage
	return json.Unmarshal(raw, (*plain)(i))
}

// Image is where a version or release comes from: a registry.
type Image struct {
	Reference string  `json:"reference" doc:"In full."`
	Digest    *string `json:"digest" doc:"Of the manifest that it meant when it was pulled; null before. What runs is that, whatever the tag means later."`
	Platform  string  `json:"platform"`
	Pull      *Pull   `json:"pull" doc:"How far the pull has come; null when none goes on."`
}

// Pull is an image on its way.
type Pull struct {
	State      string `json:"state" enum:"waiting,resolving,fetching,unpacking"`
	Layers     int    `json:"layers" doc:"0 until the image is resolved."`
	LayersDone int    `json:"layers_done"`
	Bytes      int64  `json:"bytes" doc:"Packed, of all layers."`
	BytesDone  int64  `json:"bytes_done"`
}
