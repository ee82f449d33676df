// Package appfile is miosa.toml: what an app's owner writes down beside it of
// its services, so that a publish needs no flags. The types here are the one
// place that says which keys there are: the file is read by them, the flags of
// the commands are made of them, and so are the JSON schema and its page.
//
// Tags beyond toml: doc says what a key is (and is the help of its flag), enum
// its allowed values, min and max its range (of a text, a list or a table: how
// much it holds), zero what 0 means where it may be that too (of a text or list
// what its flag's empty value means), default what holds
// where the key is not there, and example what the schema shows.
package appfile

import "time"

// Name is the file's, as it is looked for.
const Name = "miosa.toml"

// File is one miosa.toml.
type File struct {
	Name              string              `toml:"name" min:"1" max:"100" doc:"name of the deployment" example:"shop"`
	Environment       string              `toml:"environment" min:"1" max:"20" doc:"environment to publish to" default:"production" example:"staging"`
	RequiredVariables []string            `toml:"required_variables" max:"500" doc:"variables that must be set in the environment before anything is published; their values stand in no file" example:"DATABASE_URL"`
	Variables         map[string]string   `toml:"variables" max:"500" doc:"variables with values that are no secret; a publish sets them"`
	Services          map[string]*Service `toml:"services" max:"40" doc:"what runs, by name; of a file without any it is one, web"`

	// Order are the services' names as they stand in the file.
	Order []string `toml:"-"`
}

// Service is one service of the app: a process type. What is nil was not said.
type Service struct {
	Type            *string   `toml:"type" enum:"web,api,worker" doc:"what it is: a worker has no port and gets no requests" default:"web"`
	Command         *string   `toml:"command" min:"1" max:"16384" doc:"command to run in it" default:"the image's own" example:"/app/server"`
	Port            *int      `toml:"port" min:"1" max:"65535" doc:"port it listens on" default:"the image's first, or 8080"`
	Protocol        *string   `toml:"protocol" enum:"http1,h2c,tcp" doc:"how it is spoken to: h2c is HTTP/2 without TLS, as gRPC servers speak it; tcp is bytes" default:"http1"`
	ResponseTimeout *Duration `toml:"response_timeout" min:"1s" max:"1h" doc:"how long the router waits for the first byte of an answer" default:"2m"`
	Replicas        *int      `toml:"replicas" min:"0" max:"10000" doc:"how many instances" default:"as it was scaled, at first 1"`
	Size            *string   `toml:"size" enum:"micro,small,medium,large,xlarge" doc:"named size of an instance; resources change it in parts" default:"small"`
	Resources       Resources `toml:"resources" doc:"size of an instance"`
	Regions         []string  `toml:"regions" max:"100" zero:"any" doc:"regions it may run in" default:"any" example:"eu-west"`
	Sticky          Sticky    `toml:"sticky" doc:"what ties a client to one instance"`
	Health          Health    `toml:"health" doc:"how an instance is judged"`
	StopSignal      *string   `toml:"stop_signal" min:"1" max:"20" zero:"the default" doc:"signal that asks it to end" default:"the image's, or SIGTERM" example:"SIGQUIT"`
	StopGrace       *Duration `toml:"stop_grace" min:"1s" max:"5m" doc:"time from the stop signal to SIGKILL" default:"10s"`
	Restart         Restart   `toml:"restart" doc:"when an instance is booted again"`

	StopAfterDisconnect *Duration  `toml:"stop_after_disconnect" min:"10s" max:"24h" zero:"never" doc:"for what must never run twice: a host that has not reached the control plane for so long stops its instances, and none is replaced before it certainly has ended. By a publish, a restart or a drain the next one starts beside it, as with every service" default:"never" example:"2m"`
	Disruption          Disruption `toml:"disruption" doc:"what the platform may do to it by its own will, as when a host is drained"`
	Placement           Placement  `toml:"placement" doc:"which hosts may run it"`
}

// Resources are the parts of a size.
type Resources struct {
	VCPUs      *int `toml:"vcpus" min:"1" max:"256" doc:"vCPUs an instance" default:"1"`
	MemoryMB   *int `toml:"memory_mb" min:"64" max:"4194304" doc:"MB of memory an instance" default:"512"`
	DiskMB     *int `toml:"disk_mb" min:"64" max:"67108864" doc:"MB of disk an instance, which is fresh at every boot" default:"1024"`
	GPU        *int `toml:"gpu" min:"0" max:"16" doc:"GPUs an instance" default:"0"`
	EgressMbps *int `toml:"egress_mbps" min:"1" max:"400000" zero:"no limit" doc:"Mbit/s an instance may send" default:"no limit"`
}

// Health is a service's health check.
type Health struct {
	Type      *string           `toml:"type" enum:"http,tcp,grpc,exec,none" doc:"what makes it healthy: http, that a request is answered 2xx; tcp, that a connection is accepted; grpc, that the gRPC health service answers SERVING; exec, that a command exits with 0; none, that its process runs" default:"http; tcp where protocol is tcp; none for a worker"`
	Path      *string           `toml:"path" min:"1" max:"1024" doc:"path that answers 2xx when it is healthy; where type is grpc, a / and the name of the gRPC service to ask about" default:"/" example:"/healthz"`
	Host      *string           `toml:"host" min:"1" max:"255" zero:"the default" doc:"what it is asked with as Host" example:"shop.example" default:"the app's managed host name"`
	Scheme    *string           `toml:"scheme" enum:"http,https" doc:"what it is asked over; with https any certificate will do" default:"http"`
	Headers   map[string]string `toml:"headers" max:"20" doc:"headers it is asked with; ${NAME} is that variable's value" example:"Authorization: Bearer ${HEALTH_TOKEN}"`
	Command   *string           `toml:"command" min:"1" max:"16384" doc:"command that exits with 0 in a healthy instance; makes type exec" example:"/app/check"`
	Interval  *Duration         `toml:"interval" min:"1s" max:"5m" doc:"how often it is asked" default:"5s"`
	Timeout   *Duration         `toml:"timeout" min:"100ms" max:"1m" doc:"how long an answer may take" default:"2s"`
	Grace     *Duration         `toml:"grace" min:"1s" max:"10m" doc:"time from boot in which failures are tolerated" default:"1m"`
	Threshold *int              `toml:"threshold" min:"1" max:"100" doc:"failures in a row that make it unhealthy" default:"3"`
	Stable    *Duration         `toml:"stable" min:"1s" max:"10m" doc:"how long its process must have run to be healthy, where type is none" default:"10s"`
}

// Restart is a service's restart policy.
type Restart struct {
	Policy *string   `toml:"policy" enum:"always,on_failure,never" doc:"after which exits it is booted again" default:"always"`
	MaxAge *Duration `toml:"max_age" min:"1m" max:"8760h" zero:"never" doc:"age at which an instance is replaced, make before break" default:"never"`
}

// Disruption is what may be done to a service by the platform's own will.
type Disruption struct {
	MaxUnavailable *CountOrPercent `toml:"max_unavailable" max:"10000" doc:"how many of its instances may be missing meanwhile; a percentage is of those that are wanted, rounded down" default:"0" example:"25%"`
}

// Placement is which hosts may run a service.
type Placement struct {
	Labels map[string]string `toml:"labels" max:"20" zero:"none" doc:"labels that a host must have, all of them" example:"disk=nvme"`
	Apart  *bool             `toml:"apart" doc:"whether two of its instances must never share a host, not even where there is no other" default:"false"`
}

// Sticky ties a client to an instance.
type Sticky struct {
	Mode *string `toml:"mode" enum:"none,cookie,client_ip,header" doc:"how requests of one client find the same instance again: by a cookie, its address or a header; where protocol is tcp, by its address" default:"none"`
	Name *string `toml:"name" min:"1" max:"100" doc:"name of the cookie or header" example:"X-Session"`
}

// CountOrPercent is a number like 1, or a percentage like "25%".
type CountOrPercent string

// Duration is a time written like "30s", "1m30s" or "500ms".
type Duration time.Duration

// Seconds is what the API is told.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

// SchemaURL is where the JSON schema of the file lies, for editors.
const SchemaURL = "https://raw.githubusercontent.com/miosa/miosa/main/docs/miosa.schema.json"
