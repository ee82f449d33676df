package resource

// DeploymentChange is a change of one deployment to be tried: one of its fields.
type DeploymentChange struct {
	Publish *Publish `json:"publish,omitempty" doc:"As for a publish; without a source it stands for a release that no host has yet."`
	Scale   *Scale   `json:"scale,omitempty"`
}

// FleetChange is a change to be tried by the operator: publish or scale with a
// deployment_id, or one of the others.
type FleetChange struct {
	DeploymentID string   `json:"deployment_id,omitempty" doc:"Whose publish or scale it is."`
	Publish      *Publish `json:"publish,omitempty" doc:"As for a publish; without a source it stands for a release that no host has yet."`
	Scale        *Scale   `json:"scale,omitempty"`
	LoseHost     string   `json:"lose_host,omitempty" doc:"ID or name of a host that is gone at once."`
	LoseZone     string   `json:"lose_zone,omitempty" doc:"Zone all of whose hosts are gone at once; with its region, as eu/a, where two have one of that name."`
	DrainHost    string   `json:"drain_host,omitempty" doc:"ID or name of a host that is emptied, make before break."`
}

// DryRun is what a change would lead to.
type DryRun struct {
	OK       bool             `json:"ok" doc:"Everything finds a host, no service ends up with fewer that serve than it wants or is down on the way, what is drained is empty, and the publish goes live. What was not well before does not count."`
	Change   string           `json:"change" doc:"The change in words."`
	Summary  string           `json:"summary"`
	Words    []string         `json:"words" doc:"All of it as lines for a person; long lists are cut there."`
	Regions  []DryRunRegion   `json:"regions" doc:"How many instances find a host, by region."`
	Services []DryRunService  `json:"services" doc:"Those whose instances it touches."`
	Moves    []DryRunMove     `json:"moves"`
	Starts   []DryRunStart    `json:"starts"`
	Ends     []DryRunEnd      `json:"ends" doc:"Instances that nothing takes over from in their version."`
	NoRoom   []DryRunNoRoom   `json:"no_room" doc:"Instances that find no host."`
	Stays    []DryRunStay     `json:"stays" doc:"Instances that do not come away from a host that is drained."`
	Rollouts []DryRunRollout  `json:"rollouts" doc:"That of a publish."`
	Zones    []DryRunZone     `json:"zones" doc:"How full they are; the operator's alone."`
	Hosts    []DryRunHostFill `json:"hosts" doc:"Those of which more or less is promised after it; the operator's alone."`
	Waiting  int              `json:"waiting" doc:"Other instances that found no host before, and find none still."`
	Finished bool             `json:"finished" doc:"false: it did not come to rest, and this is how far it came."`
}

// DryRunSubject is whose something is.
type DryRunSubject struct {
	TenantID      string  `json:"tenant_id"`
	Tenant        *string `json:"tenant" doc:"Its slug; the operator's alone."`
	DeploymentID  string  `json:"deployment_id"`
	Deployment    string  `json:"deployment" doc:"Its slug."`
	EnvironmentID string  `json:"environment_id"`
	Environment   string  `json:"environment"`
	ServiceID     *string `json:"service_id"`
	Service       *string `json:"service"`
}

// DryRunPlace is where an instance is.
type DryRunPlace struct {
	HostID *string `json:"host_id" doc:"The operator's alone, as host and zone."`
	Host   *string `json:"host"`
	Region *string `json:"region"`
	Zone   *string `json:"zone"`
}

// DryRunRegion is how many instances find a host in a region.
type DryRunRegion struct {
	Region    string `json:"region"`
	Instances int    `json:"instances"`
}

// DryRunService is how a service stands before and after.
type DryRunService struct {
	DryRunSubject
	WantedBefore  int  `json:"wanted_before" doc:"Instances, where it is live; 0 where it is not."`
	Wanted        int  `json:"wanted"`
	ServingBefore int  `json:"serving_before" doc:"Healthy instances of the live version."`
	Lowest        int  `json:"lowest" doc:"The fewest on the way."`
	Serving       int  `json:"serving"`
	Falls         bool `json:"falls" doc:"In the end fewer serve than it wants, because of this."`
	Dips          bool `json:"dips" doc:"For a while fewer serve than it wants."`
	Down          bool `json:"down" doc:"For a while, or for good, none serves."`
}

// DryRunMove is an instance that another one takes over from.
type DryRunMove struct {
	DryRunSubject
	VersionNumber int         `json:"version_number"`
	Slot          int         `json:"slot"`
	InstanceID    *string     `json:"runtime_instance_id" doc:"null: one that would only be there by then."`
	From          DryRunPlace `json:"from"`
	To            DryRunPlace `json:"to"`
	Reason        string      `json:"reason"`
}

// DryRunStart is a new instance, or one that waited for a host.
type DryRunStart struct {
	DryRunSubject
	VersionNumber int         `json:"version_number"`
	Slot          int         `json:"slot"`
	On            DryRunPlace `json:"on"`
	Reason        string      `json:"reason"`
}

// DryRunEnd is an instance that ends.
type DryRunEnd struct {
	DryRunSubject
	VersionNumber int         `json:"version_number"`
	Slot          int         `json:"slot"`
	InstanceID    *string     `json:"runtime_instance_id" doc:"null: one that would only be there by then."`
	On            DryRunPlace `json:"on"`
	Reason        string      `json:"reason"`
}

// DryRunNoRoom is an instance that finds no host.
type DryRunNoRoom struct {
	DryRunSubject
	VersionNumber int      `json:"version_number"`
	Slot          int      `json:"slot"`
	Replaces      *string  `json:"replaces" doc:"The instance that it was to take over from."`
	Reasons       []string `json:"reasons" doc:"What turned hosts down, and what would fit."`
}

// DryRunStay is an instance that does not come away from a host that is drained.
type DryRunStay struct {
	DryRunSubject
	VersionNumber int         `json:"version_number"`
	Slot          int         `json:"slot"`
	InstanceID    *string     `json:"runtime_instance_id" doc:"null: one that would only be there by then."`
	On            DryRunPlace `json:"on"`
}

// DryRunRollout is how a publish goes.
type DryRunRollout struct {
	DryRunSubject
	VersionNumber int    `json:"version_number"`
	Live          bool   `json:"live"`
	Proven        bool   `json:"proven" doc:"It ended well without going live, as was asked."`
	Reason        string `json:"reason"`
}

// DryRunZone is how full a zone's hosts are, by what is promised on those that
// take new instances; vCPUs as often as they may be promised.
type DryRunZone struct {
	Region         string    `json:"region"`
	Zone           string    `json:"zone"`
	HostsBefore    int       `json:"hosts_before" doc:"Those that take new instances."`
	Hosts          int       `json:"hosts"`
	CapacityBefore Resources `json:"capacity_before"`
	PromisedBefore Resources `json:"promised_before"`
	Capacity       Resources `json:"capacity"`
	Promised       Resources `json:"promised"`
}

// DryRunHostFill is how much is promised on a host.
type DryRunHostFill struct {
	HostID         string    `json:"host_id"`
	Host           string    `json:"host"`
	Region         string    `json:"region"`
	Zone           string    `json:"zone"`
	Capacity       Resources `json:"capacity"`
	PromisedBefore Resources `json:"promised_before"`
	Promised       Resources `json:"promised"`
}
