package api

import (
	"net/http"

	"github.com/miosa/miosa/api/resource"
)

const (
	get   = http.MethodGet
	post  = http.MethodPost
	patch = http.MethodPatch
	del   = http.MethodDelete
)

// routes is the whole API, in the order of its document.
func routes() []*route {
	var all []*route
	for _, part := range [][]*route{deploymentRoutes(), versionRoutes(), serviceRoutes(), taskRoutes(), logRoutes(), drainRoutes(), metricRoutes(), environmentRoutes(), usageRoutes(), platformRoutes(), webhookRoutes(), registryRoutes(), adminRoutes()} {
		all = append(all, part...)
	}
	return all
}

const waitNote = "Answers at once, 202, unless `?wait=true` or `Prefer: wait=N` (seconds) asks to see the end: then 200."

func deploymentRoutes() []*route {
	project := "The same under a project of yours: project_id is taken from the path."
	return []*route{
		{Method: get, Pattern: "/deployments", Access: accessTenant, Operation: "listDeployments", Summary: "List deployments",
			Query:  []param{{"name", "Only those of this name, or with this slug."}},
			Handle: many((*Server).listDeployments)},
		{Method: post, Pattern: "/deployments", Access: accessTenant, Operation: "createDeployment", Summary: "Create a deployment", Status: 201,
			Notes:  "Its environments production and staging are made with it, and its public_url is known from now on. 409 name_taken.",
			Handle: one((*Server).createDeployment)},
		{Method: get, Pattern: "/projects/{project_id}/deployments", Access: accessTenant, Operation: "listProjectDeployments", Tag: "deployments",
			Summary: "List a project's deployments", Handle: many((*Server).listDeployments)},
		{Method: post, Pattern: "/projects/{project_id}/deployments", Access: accessTenant, Operation: "createProjectDeployment", Tag: "deployments",
			Summary: "Create a deployment in a project", Status: 201, Notes: project, Handle: one((*Server).createDeployment)},
		{Method: get, Pattern: "/deployments/{id}", Access: accessTenant, Operation: "getDeployment", Summary: "Get a deployment",
			Notes: "id may be the slug, here and below.", Handle: one((*Server).getDeployment)},
		{Method: patch, Pattern: "/deployments/{id}", Access: accessTenant, Operation: "updateDeployment", Summary: "Change a deployment",
			Handle: one((*Server).patchDeployment)},
		{Method: del, Pattern: "/deployments/{id}", Access: accessTenant, Operation: "deleteDeployment", Summary: "Delete a deployment",
			Notes: "It is gone for the API at once; routes go first, then instances drain. Its logs stay for the days of the plan, and are read by its ID, " +
				"unless `purge_logs=true` takes them too; that may also be asked for afterwards, by its ID.",
			Query: []param{{"purge_logs", "true: its log lines go with it."}}, Handle: one((*Server).deleteDeployment)},
		{Method: post, Pattern: "/deployments/{id}/publish", Access: accessTenant, Operation: "publish", Summary: "Publish a release, or an image from a registry, as a new version",
			Status: 202, Also: []int{200},
			Notes: waitNote + " A version that never became healthy answers 200 with version.state failed, its error_message, and promoted false; what was live goes on serving. " +
				"What it says of desired_replicas, regions, sticky and restart is the services' own from when its version goes live for the first time; a rollback leaves it. " +
				"409 rollout_in_progress while another one goes on in the environment. An image is pulled first, within an hour: the rollout's step is pulling, version.image.pull says how far it is, " +
				"and release is null until it is there.",
			Query: []param{{"wait", "true: answer when the publish is decided."}}, Handle: one((*Server).publish)},
		{Method: post, Pattern: "/deployments/{id}/rollback", Access: accessTenant, Operation: "rollback", Summary: "Make an earlier version live again",
			Also: []int{202}, Query: []param{{"wait", "false: answer at once, 202."}},
			Notes: "Answers after the flip; `Prefer: respond-async`: 202 at once. A live publish is cancelled. Without a version: what was live before the present one, " +
				"or, while a publish goes on that has not gone live, what is live now; where nothing is, the publish is cancelled, and rollout is its own. 404 not of this deployment, 409 not ready, 410 archived.",
			Handle: one((*Server).rollback)},
		{Method: post, Pattern: "/deployments/{id}/scale", Access: accessTenant, Operation: "scale", Summary: "Set the number of instances",
			Handle: one((*Server).scaleDeployment)},
		{Method: post, Pattern: "/deployments/{id}/plan", Access: accessTenant, Operation: "planDeployment", Summary: "Say what a publish or a scale would lead to", Dry: true,
			Notes:  dryNote + " By region; hosts are the operator's matter.",
			Handle: one((*Server).planDeployment)},
		{Method: post, Pattern: "/deployments/{id}/resize", Access: accessTenant, Operation: "resize", Summary: "Set the size of the instances",
			Notes: "Makes a new version of the same release and rolls it out.", Query: []param{{"wait", "true: answer when it is live."}},
			Handle: one((*Server).resizeDeployment)},
		{Method: get, Pattern: "/deployments/{id}/events", Access: accessTenant, Operation: "listDeploymentEvents", Tag: "events", Summary: "What happened to a deployment",
			Notes: streamNote, Query: eventQuery, Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
		{Method: get, Pattern: "/events", Access: accessTenant, Operation: "listEvents", Summary: "What happened to the tenant's things",
			Notes: streamNote, Query: eventQuery, Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
		{Method: get, Pattern: "/services/{id}/events", Access: accessTenant, Operation: "listServiceEvents", Tag: "events", Summary: "What happened to a service",
			Notes: streamNote, Query: eventQuery, Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
		{Method: get, Pattern: "/runtime-instances/{ri_id}/events", Access: accessTenant, Operation: "listInstanceEvents", Tag: "events", Summary: "What happened to an instance",
			Notes: streamNote, Query: eventQuery, Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
		{Method: get, Pattern: "/deployments/{id}/rollouts", Access: accessTenant, Operation: "listRollouts", Tag: "rollouts", Summary: "List a deployment's rollouts",
			Handle: many((*Server).listRollouts)},
		{Method: get, Pattern: "/rollouts/{rollout_id}", Access: accessTenant, Operation: "getRollout", Summary: "Get a rollout",
			Notes: "`?wait=true` or `Prefer: wait=N` answers when it is decided.", Query: []param{{"wait", "true: answer when it is decided."}},
			Handle: one((*Server).getRollout)},
		{Method: get, Pattern: "/deployments/{id}/builds", Access: accessTenant, Operation: "listBuilds", Tag: "deployments", Summary: "List builds",
			Notes: "Always empty: nothing is built here.", Handle: many((*Server).listBuilds)},
		{Method: get, Pattern: "/why/{subject}", Access: accessTenant, Operation: "explain", Summary: "Why is it as it is?",
			Notes:  "subject: a deployment's ID or slug, or the ID of a version, service, rollout or runtime instance.",
			Handle: one((*Server).explain)},
	}
}

const execNote = "A WebSocket, subprotocol " + resource.ExecProtocol + ". The client's first message is text, an ExecCommand of type open; then binary messages are the command's input, " +
	"and text ones resize, signal, eof, alive. From the platform: text messages, ExecEvent, of type started, taken, alive, then ended or error as the last; binary ones are output, " +
	"whose first byte is 1 for standard output (all of a terminal's) and 2 for standard error. A client has at most 64 KiB of input on its way that taken has not told of. " +
	"A session ends with its connection, its instance, its key, and at the plan's limits. A command that ends by itself leaves running what it put into the background; a session that is cut ends that too. " +
	"426 without an Upgrade; 409 instance_not_running, exec_sessions_busy. exec.started and exec.ended tell who ran what, from where, and how it ended."

const dryNote = "A dry run: it is refused as the change itself would be, and else decided on a copy of the records by what decides in earnest, with hosts that do as they are told at once. " +
	"Nothing is changed, and no answer is kept for an Idempotency-Key. What is under way is let end first. One is made at a time: 429 too_many_dry_runs."

const streamNote = "JSON: newest first, a caller's own changes among them at once; the total counts 10000 at most. What is gone (a deployment, a service, an instance) keeps its timeline by its ID " +
	"until its events expire: 30 days, or the plan's event_days. With `Accept: text/event-stream` or `follow=true`: the newest `limit` ones as server-sent events, then each as it happens; " +
	"`Last-Event-ID` resumes without a gap."

var eventQuery = []param{
	{"page", "Number of the page, from 1, among the newest 10000 events; further back by cursor."}, {"page_size", "At most 100; default 20."},
	{"limit", "Another name for page_size; of a stream, how many it begins with, at most 1000."}, {"cursor", "next_cursor of the answer before."},
	{"follow", "true: server-sent events."}, {"type", "Beginnings of event types, by commas: rollout,instance.crashed."},
	{"service_id", "Only of this service."}, {"runtime_instance_id", "Only of this instance."},
	{"version_id", "Only of this version."}, {"rollout_id", "Only of this rollout."}, {"task_id", "Only of this task."},
	{"deployment_id", "Only of this deployment."}, {"host_id", "Only on this host."}, {"external_workspace_id", "Only of what belonged to it then."},
}

func taskRoutes() []*route {
	wait := []param{{"wait", "true: answer when it has ended."}}
	return []*route{
		{Method: post, Pattern: "/deployments/{id}/tasks", Access: accessTenant, Operation: "createTask", Tag: "tasks", Summary: "Run a command once", Status: 201, Also: []int{200}, Query: wait,
			Notes: "In a virtual machine of its own, from a version that has been healthy, with that version's variables and beside its instances; placed as they are, never routed to. " +
				"It runs at most once, unless retries allow more, and then only once the attempt before has certainly ended. 201, or 200 where `?wait=true` or `Prefer: wait=N` saw its end. " +
				"409 nothing_published, version_not_ready; 410 version_archived; 402 where the plan allows no more of them (max_tasks).",
			Handle: one((*Server).createTask)},
		{Method: get, Pattern: "/deployments/{id}/tasks", Access: accessTenant, Operation: "listTasks", Tag: "tasks", Summary: "List tasks",
			Notes: "Ended ones stay for 30 days, the newest 500 of an environment.",
			Query: []param{{"environment", "Only those of this environment."}, {"version_id", "Only those of this version."}}, Handle: many((*Server).listTasks)},
		{Method: get, Pattern: "/tasks/{task_id}", Access: accessTenant, Operation: "getTask", Summary: "Get a task",
			Notes: "`?wait=true` or `Prefer: wait=N` answers when it has ended.", Query: wait, Handle: one((*Server).getTask)},
		{Method: post, Pattern: "/tasks/{task_id}/stop", Access: accessTenant, Operation: "stopTask", Summary: "Stop a task", Status: 202, Also: []int{200}, Query: wait,
			Notes: "The stop signal, the service's grace, SIGKILL. One that has ended stays as it is: 200.", Handle: one((*Server).stopTask)},
	}
}

func versionRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/deployments/{id}/versions", Access: accessTenant, Operation: "listVersions", Tag: "versions", Summary: "List versions",
			Query: []param{{"environment", "Only those made for it."}}, Handle: many((*Server).listVersions)},
		{Method: get, Pattern: "/deployments/{id}/versions/{version_id}", Access: accessTenant, Operation: "getVersion", Tag: "versions", Summary: "Get a version",
			Handle: one((*Server).getVersion)},
		{Method: post, Pattern: "/deployments/{id}/versions/{version_id}/promote", Access: accessTenant, Operation: "promoteVersion", Tag: "versions",
			Summary: "Make a version live", Also: []int{202}, Query: []param{{"wait", "false: answer at once, 202."}},
			Notes:  "Answers after the flip; `Prefer: respond-async`: 202 at once. To another environment than its own it goes as a new version with that one's variables.",
			Handle: one((*Server).promoteVersion)},
		{Method: get, Pattern: "/deployments/{id}/releases", Access: accessTenant, Operation: "listReleases", Tag: "releases", Summary: "List releases",
			Handle: many((*Server).listReleases)},
		{Method: post, Pattern: "/deployments/{id}/releases", Access: accessTenant, Operation: "uploadRelease", Tag: "releases", Summary: "Upload a release",
			Status: 201, Also: []int{200}, Upload: true,
			Notes: "The artefact is the body, streamed. `Content-Digest: sha-256=:<base64>:` (or the older `Digest: sha-256=<base64>`) must match: 422 digest_mismatch. " +
				"The same bytes twice are one release: 200. At most 8 at once: 429 too_many_uploads.",
			Query: []param{{"kind", "rootfs, oci or static; by default oci for the archive of an image (OCI layout, docker save), told by what is in it, and rootfs for any other."}}, Handle: one((*Server).uploadRelease)},
		{Method: get, Pattern: "/deployments/{id}/releases/{release_id}", Access: accessTenant, Operation: "getRelease", Tag: "releases", Summary: "Get a release",
			Handle: one((*Server).getRelease)},
		{Method: post, Pattern: "/deployments/{id}/releases/{release_id}/promote", Access: accessTenant, Operation: "promoteRelease", Tag: "releases",
			Summary: "Make the newest version of a release live", Also: []int{202}, Query: []param{{"wait", "false: answer at once, 202."}},
			Handle: one((*Server).promoteRelease)},
	}
}

var instanceQuery = []param{
	{"all", "true: also those that ended."}, {"tasks", "true: also attempts at tasks."}, {"task_id", "Only attempts at this task."}, {"host_id", "Only on this host."}, {"service_id", "Only of this service."}, {"version_id", "Only of this version."},
}

func serviceRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/deployments/{id}/services", Access: accessTenant, Operation: "listServices", Tag: "services", Summary: "List services",
			Query: []param{{"environment", "Only those of it."}, {"all", "true: also those that no live or wanted version names."}}, Handle: many((*Server).listServices)},
		{Method: get, Pattern: "/services/{id}", Access: accessTenant, Operation: "getService", Summary: "Get a service", Handle: one((*Server).getService)},
		{Method: patch, Pattern: "/services/{id}", Access: accessTenant, Operation: "updateService", Summary: "Change a service",
			Notes:  "run_command, port, health_check and resources belong to a version: changing them makes a new one of the same release and rolls it out (rollout_id).",
			Query:  []param{{"wait", "true: answer when a rollout it begins is decided."}},
			Handle: one((*Server).patchService)},
		{Method: post, Pattern: "/services/{id}/restart", Access: accessTenant, Operation: "restartService", Summary: "Restart a service, rolling",
			Status: 202, Also: []int{200}, Notes: "A new version of the same release with the variables as they are now. " + waitNote,
			Query:  []param{{"wait", "true: answer when it is live."}},
			Handle: one((*Server).restartService)},
		{Method: get, Pattern: "/services/{id}/runtime-instances", Access: accessTenant, Operation: "listServiceInstances", Tag: "runtime-instances",
			Summary: "List a service's instances", Query: instanceQuery, Handle: many((*Server).listServiceInstances)},
		{Method: get, Pattern: "/deployments/{id}/runtime-instances", Access: accessTenant, Operation: "listDeploymentInstances", Tag: "runtime-instances",
			Summary: "List a deployment's instances", Query: instanceQuery, Handle: many((*Server).listDeploymentInstances)},
		{Method: get, Pattern: "/deployments/{id}/runtime-instances/{ri_id}", Access: accessTenant, Operation: "getDeploymentInstance", Tag: "runtime-instances",
			Summary: "Get an instance of a deployment", Handle: one((*Server).getDeploymentInstance)},
		{Method: get, Pattern: "/runtime-instances", Access: accessTenant, Operation: "listInstances", Summary: "List all instances",
			Notes: "Newest first; those that ended only with state= or all=true.", Query: instanceQuery, Handle: many((*Server).listInstances)},
		{Method: get, Pattern: "/runtime-instances/{ri_id}", Access: accessTenant, Operation: "getInstance", Summary: "Get an instance",
			Handle: one((*Server).getInstance)},
		{Method: get, Pattern: "/runtime-instances/{ri_id}/exec", Access: accessTenant, Operation: "execInstance", Summary: "Run a command in an instance",
			Notes: execNote, Handle: one((*Server).needsWebSocket), WebSocket: (*Server).execInstance},
		{Method: post, Pattern: "/runtime-instances/{ri_id}/restart", Access: accessTenant, Operation: "restartInstance", Summary: "Replace an instance, make before break",
			Status: 202, Handle: one((*Server).restartInstance)},
		{Method: post, Pattern: "/runtime-instances/{ri_id}/stop", Access: accessTenant, Operation: "stopInstance", Summary: "Stop an instance gracefully",
			Status: 202, Notes: "Its service gets another one in its place; scale down to have fewer.", Handle: one((*Server).stopInstance)},
	}
}

func environmentRoutes() []*route {
	environment := []param{{"environment", "Default production."}}
	return []*route{
		{Method: get, Pattern: "/deployments/{id}/environments", Access: accessTenant, Operation: "listEnvironments", Tag: "environments", Summary: "List environments",
			Handle: many((*Server).listEnvironments)},
		{Method: post, Pattern: "/deployments/{id}/environments", Access: accessTenant, Operation: "createEnvironment", Tag: "environments",
			Summary: "Create an environment", Status: 201, Handle: one((*Server).createEnvironment)},
		{Method: get, Pattern: "/deployments/{id}/env", Access: accessTenant, Operation: "listVariables", Tag: "environments", Summary: "List variables",
			Notes: "Previews, never values.", Query: environment, Handle: many((*Server).listVars)},
		{Method: post, Pattern: "/deployments/{id}/env", Access: accessTenant, Operation: "setVariables", Tag: "environments", Summary: "Set and delete variables",
			Notes:  "Merges and answers with the list. A null value deletes. Takes effect at the next publish or restart of a service. PORT and MIOSA_* are set by the platform: 422.",
			Handle: manyFrom((*Server).mergeVars)},
		{Method: del, Pattern: "/deployments/{id}/env/{key}", Access: accessTenant, Operation: "deleteVariable", Tag: "environments", Summary: "Delete a variable",
			Query: environment, Handle: one((*Server).deleteVar)},
	}
}

func platformRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/compute/regions", Access: accessTenant, Operation: "listRegions", Summary: "List regions", Handle: many((*Server).listRegions)},
		{Method: get, Pattern: "/compute/sizes", Access: accessTenant, Operation: "listSizes", Summary: "List sizes", Handle: many((*Server).listSizes)},
		{Method: get, Pattern: "/platform/tenants/current", Access: accessTenant, Operation: "currentTenant", Summary: "The tenant of this key",
			Handle: one((*Server).currentTenant)},
	}
}

func adminRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/admin/tenants", Access: accessAdmin, Operation: "listTenants", Summary: "List tenants", Handle: many((*Server).listTenants)},
		{Method: post, Pattern: "/admin/tenants", Access: accessAdmin, Operation: "createTenant", Summary: "Create a tenant", Status: 201,
			Handle: one((*Server).createTenant)},
		{Method: get, Pattern: "/admin/tenants/{id}", Access: accessAdmin, Operation: "getTenant", Summary: "Get a tenant", Handle: one((*Server).getTenant)},
		{Method: patch, Pattern: "/admin/tenants/{id}", Access: accessAdmin, Operation: "updateTenant", Summary: "Change a tenant",
			Handle: one((*Server).patchTenant)},
		{Method: get, Pattern: "/admin/plans", Access: accessAdmin, Operation: "listPlans", Summary: "List plans", Handle: many((*Server).listPlans)},
		{Method: post, Pattern: "/admin/plans", Access: accessAdmin, Operation: "createPlan", Summary: "Create a plan", Status: 201,
			Notes: "Limits that are left out are those of the default plan.", Handle: one((*Server).createPlan)},
		{Method: get, Pattern: "/admin/plans/{name}", Access: accessAdmin, Operation: "getPlan", Summary: "Get a plan", Handle: one((*Server).getPlan)},
		{Method: patch, Pattern: "/admin/plans/{name}", Access: accessAdmin, Operation: "updatePlan", Summary: "Change a plan", Handle: one((*Server).patchPlan)},
		{Method: get, Pattern: "/admin/api-keys", Access: accessAdmin, Operation: "listAPIKeys", Summary: "List API keys",
			Query:  []param{{"tenant_id", "Only of this tenant."}, {"all", "true: also revoked ones."}},
			Handle: many((*Server).listAPIKeys)},
		{Method: post, Pattern: "/admin/api-keys", Access: accessAdmin, Operation: "createAPIKey", Summary: "Create an API key", Status: 201, SecretReply: true,
			Notes: "The key is in this answer and nowhere else.", Handle: one((*Server).createAPIKey)},
		{Method: get, Pattern: "/admin/api-keys/{id}", Access: accessAdmin, Operation: "getAPIKey", Summary: "Get an API key", Handle: one((*Server).getAPIKey)},
		{Method: del, Pattern: "/admin/api-keys/{id}", Access: accessAdmin, Operation: "revokeAPIKey", Summary: "Revoke an API key",
			Notes: "At once; a stream that it has open ends with the next heartbeat.", Handle: one((*Server).revokeAPIKey)},
		{Method: get, Pattern: "/admin/hosts", Access: accessAdmin, Operation: "listHosts", Summary: "List hosts",
			Query: []param{{"region", "Only in this region."}}, Handle: many((*Server).listHosts)},
		{Method: get, Pattern: "/admin/hosts/{id}", Access: accessAdmin, Operation: "getHost", Summary: "Get a host", Handle: one((*Server).getHost)},
		{Method: post, Pattern: "/admin/hosts/{id}/cordon", Access: accessAdmin, Operation: "cordonHost", Summary: "Give a host no more instances",
			Notes: "Those that it has stay.", Handle: one((*Server).cordonHost)},
		{Method: post, Pattern: "/admin/hosts/{id}/uncordon", Access: accessAdmin, Operation: "uncordonHost", Summary: "Give a host instances again",
			Notes: "Also one that is failing. That ends its drain, too: what has not left stays.", Handle: one((*Server).uncordonHost)},
		{Method: post, Pattern: "/admin/hosts/{id}/lost", Access: accessAdmin, Operation: "loseHost", Summary: "Say that a silent host is gone",
			Notes:  "What it ran has ended, and is replaced at once, also where many hosts are silent and nothing is replaced for that.",
			Handle: one((*Server).loseHost)},
		{Method: post, Pattern: "/admin/hosts/{id}/drain", Access: accessAdmin, Operation: "drainHost", Summary: "Have all instances leave a host",
			Notes:  "Each is replaced elsewhere first, as its service's disruption setting has it. How it stands is in the host's drain. Asked for again, it changes the deadline and force.",
			Handle: one((*Server).drainHost)},
		{Method: del, Pattern: "/admin/hosts/{id}", Access: accessAdmin, Operation: "deleteHost", Summary: "Forget a host that is gone",
			Query:  []param{{"force", "true: also one that fell silent a moment ago. Its instances are replaced, so it must be certain that it runs nothing."}},
			Handle: one((*Server).deleteHost)},
		{Method: get, Pattern: "/admin/hosts/{id}/events", Access: accessAdmin, Operation: "listHostEvents", Tag: "events", Summary: "What happened on a host",
			Notes: streamNote, Query: eventQuery, Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
		{Method: post, Pattern: "/admin/plan", Access: accessAdmin, Operation: "planFleet", Summary: "Say what a change would lead to in the whole fleet", Dry: true,
			Notes:  dryNote,
			Handle: one((*Server).planFleet)},
		{Method: get, Pattern: "/admin/runtime-instances/{ri_id}/exec", Access: accessAdmin, Operation: "execAnyInstance", Tag: "runtime-instances",
			Summary: "Run a command in any tenant's instance", Notes: "As in one of the caller's own; the events tell the tenant that it was the operator.",
			Handle: one((*Server).needsWebSocket), WebSocket: (*Server).execInstance},
		{Method: get, Pattern: "/admin/events", Access: accessAdmin, Operation: "listAllEvents", Tag: "events", Summary: "What happened in the whole platform",
			Notes: streamNote, Query: append([]param{{"tenant_id", "Only of this tenant."}}, eventQuery...),
			Handle: listing((*Server).listEvents), Stream: (*Server).streamEvents},
	}
}
