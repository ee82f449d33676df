#!/usr/bin/env bash
# Shows what the platform does, on one that runs already or else on one of
# its own, in a temporary directory, which it takes away again:
#
#   publish → answer → kill the VM → heal → publish 2 under load → roll back
#
# Every step is checked; the exit code is 0 only if all was as it should be.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
miosa=$PWD/bin/miosa
app=demo-$$
work=$(mktemp -d "${TMPDIR:-/tmp}/miosa-demo.XXXXXX")
platform=  # process of a platform of our own
data=      # its data directory, or that of the one that runs
published= # something to remove again from somebody else's
loaders=()
wrong=0

bold= dim= red= plain=
if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '  %s\n' "$*"; }
bad() {
	printf '  %swrong: %s%s\n' "$red" "$*" "$plain"
	wrong=1
}
die() {
	bad "$*"
	exit 1
}
now_ms() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }

# field NAME: the first value of a field in JSON on standard input.
field() { grep -o "\"$1\" *: *\(\"[^\"]*\"\|[^,}]*\)" | head -n 1 | sed 's/^[^:]*: *//; s/^"//; s/"$//'; }

clean_up() {
	local status=$?
	trap - EXIT INT TERM
	stop_load
	if [[ -n $platform ]]; then
		# SIGINT is the one that stops the VMs too.
		kill -INT "$platform" 2>/dev/null || true
		wait "$platform" 2>/dev/null || true
		local left
		left=$(vm_processes)
		if [[ -n $left ]]; then
			bad "VM processes were left behind: $left"
			kill -KILL $left 2>/dev/null || true
			status=1
		fi
		if ((status)); then
			printf '\nlast words of the platform:\n'
			tail -n 30 "$work/platform.log" || true
		fi
	elif [[ -n $published ]]; then
		"$miosa" rm "$app" --yes >/dev/null || bad "could not remove $app"
	fi
	rm -rf "$work"
	((status == 0 && wrong == 0)) || exit 1
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# vm_processes [TEXT]: pids of the VMs of this data directory, and no other,
# whose arguments hold TEXT as well.
vm_processes() {
	local dir
	for dir in /proc/[0-9]*; do
		# Processes come and go while we look.
		local arguments
		{ arguments=$(tr '\0' ' ' <"$dir/cmdline"); } 2>/dev/null || continue
		if [[ $arguments == *qemu-system* && $arguments == *"$data/"* && $arguments == *"${1-}"* ]]; then
			printf '%s\n' "${dir#/proc/}"
		fi
	done
}

free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		(: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s' "$port"; return; }
	done
}

# ask [CURL ARGUMENT…]: one request to the app. The local resolver may not
# know *.localhost, so the address is dialled and the host name sent.
ask() { curl -s --max-time 10 -H "Host: $host" "$@" "$address/"; }

# call PATH: one GET of the API. The key goes through a file descriptor: other
# users can read arguments.
call() {
	curl -sf --max-time 30 -K <(printf 'header = "Authorization: Bearer %s"\n' "$(field api_key <"$MIOSA_CONTEXT")") "$api/api/v1/$1"
}

# boot_age: seconds the app has been up, or nothing.
boot_age() { ask -f | field uptime_seconds || true; }

# load: four clients, each sending requests over a kept connection until the
# file "stop" is there; every answer is a line.
start_load() {
	local worker
	rm -f "$work/stop"
	for worker in 1 2 3 4; do
		(
			while [[ ! -e $work/stop ]]; do
				curl -s --max-time 20 -H "Host: $host" -o /dev/null \
					-w '%{http_code} %header{x-app-version}\n' "$address/?n=[1-50]" || true
			done
		) >"$work/load.$worker" 2>&1 &
		loaders+=($!)
	done
}
stop_load() {
	: >"$work/stop"
	((${#loaders[@]} == 0)) || wait "${loaders[@]}" || true
	loaders=()
}
# judge_load: the load must have lost nothing.
judge_load() {
	local total failed
	total=$(cat "$work"/load.? | wc -l)
	failed=$(cat "$work"/load.? | grep -vc '^200 ' || true)
	note "$total requests went on meanwhile, $failed failed; answers by status and version:"
	cat "$work"/load.? | sort | uniq -c | sed 's/^/    /'
	((total > 0)) || bad "the load sent nothing"
	((failed == 0)) || bad "$failed requests failed"
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
	local limit=$1 what=$2 end=$((SECONDS + $1))
	shift 2
	until "$@"; do
		((SECONDS < end)) || die "$what: not within $limit s"
		[[ -z $platform ]] || kill -0 "$platform" 2>/dev/null || die "the platform ended"
		sleep 0.2
	done
}

answers_version() { [[ $(ask -o /dev/null -w '%{http_code} %header{x-app-version}') == "200 $1" ]]; }
booted_anew() {
	local age
	age=$(boot_age)
	[[ -n $age ]] && awk -v age="$age" -v since="$1" -v now="$(now_ms)" 'BEGIN { exit !(age * 1000 < now - since) }'
}
publish() {
	local begin
	begin=$(now_ms)
	"$miosa" publish "$1" --name "$app" --run /app/server --port 8080 --health /healthz --wait 2>&1 | sed 's/^/    /'
	note "published in $((($(now_ms) - begin) / 1000)) s"
}

step "platform"
[[ -x $miosa ]] || die "bin/miosa is not built: run make build"
if "$miosa" ps >/dev/null 2>&1; then
	context=${MIOSA_CONTEXT:-$(cat "${XDG_STATE_HOME:-$HOME/.local/state}/miosa/context")}
	note "using the one that runs"
else
	data=$work/data
	context=$data/context.json
	# Its own state directory: the user's "last platform" is not this one.
	XDG_STATE_HOME=$work/state "$miosa" up --data "$data" \
		--api "127.0.0.1:$(free_port)" --http "127.0.0.1:$(free_port)" >"$work/platform.log" 2>&1 &
	platform=$!
	wait_for 120 "a platform of our own" test -s "$context"
	note "none was running: started one of our own"
fi
export MIOSA_CONTEXT=$context
data=$(dirname "$context")
api=$(field api_url <"$context")
address=$(field http_url <"$context")
wait_for 60 "$api/readyz" curl -sf -o /dev/null --max-time 5 "$api/readyz"
note "API $api, apps $address, data $data"

step "pack two versions of examples/hello"
for v in 1 2; do VERSION=$v OUT=$work/hello-$v.tar.zst examples/hello/pack | sed 's/^/    /'; done

step "publish version 1 as $app"
published=yes
publish "$work/hello-1.tar.zst"
host=$(call "deployments/$app" | field public_url | sed 's#^[a-z]*://##; s#[:/].*$##')
[[ -n $host ]] || die "the deployment has no public_url"
wait_for 30 "an answer of version 1" answers_version 1
ask | sed 's/^/    /'
"$miosa" ps | sed 's/^/    /'

step "kill its VM"
instance=$(ask -o /dev/null -w '%header{x-app-instance}')
victims=$(vm_processes "$instance")
[[ -n $victims ]] || die "no VM process of $instance found"
killed=$(now_ms)
kill -KILL $victims
note "SIGKILL to process $(echo $victims), the VM of $instance"
wait_for 120 "the app back in a new VM" booted_anew "$killed"
note "answers again after $(($(now_ms) - killed)) ms, from a VM in process $(echo $(vm_processes))"
"$miosa" ps | sed 's/^/    /'

step "publish version 2 under load"
start_load
publish "$work/hello-2.tar.zst"
wait_for 30 "an answer of version 2" answers_version 2
stop_load
judge_load

step "roll back under load"
start_load
begin=$(now_ms)
"$miosa" rollback "$app" 2>&1 | sed 's/^/    /'
wait_for 120 "an answer of version 1" answers_version 1
note "back on version 1 after $(($(now_ms) - begin)) ms"
stop_load
judge_load

step "what happened"
"$miosa" versions "$app" | sed 's/^/    /'
"$miosa" events "$app" | sed 's/^/    /'

if ((wrong)); then
	step "not all was as it should be"
else
	step "all as it should be"
fi
