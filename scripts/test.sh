#!/usr/bin/env bash
# Every test of the repository, with one summary at the end that lists what
# was skipped and why. Arguments are packages (default: all).
#
# Three passes: packages without VMs run under the race detector; those that
# boot VMs run without it and two at a time, because under emulation a VM wants
# a core to itself. The simulation goes with them: it is long. So does what
# looks at the heap, again and again: it takes ten times as long with the
# detector. At last, alone, what runs the whole platform.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

module=$(go list -m)
# The qemu driver, whatever uses it or the guest bundle in a test, and what
# runs the whole platform; and what measures the heap.
unraced() {
	go list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' "$@" |
		awk -v m="$module" '
			function whole(p) { return p ~ "^" m "/(cmd/miosa|vmm/qemu|bench|e2e|sim|artifact/artifacttest)(/|$)" && p !~ "/bench/load" }
			{
				vm = whole($1)
				for (i = 2; i <= NF; i++) if ($i == m "/vmm/qemu" || $i == m "/vmm/bundle") vm = 1
				if (vm) print $1
			}'
}

# Called by gotestsum: prints all passes as test events.
if [[ ${1-} == --events ]]; then
	shift
	mapfile -t all < <(go list "$@")
	mapfile -t alone < <(unraced "$@")
	mapfile -t plain < <(printf '%s\n' "${all[@]}" | grep -vxF -f <(printf '%s\n' "${alone[@]:-none}"))
	status=0
	race=(-race)
	if [[ $(go env CGO_ENABLED) != 1 ]] || ! command -v "$(go env CC)" >/dev/null; then
		printf 'no C compiler: the race detector is off\n' >&2
		race=()
	fi
	if ((${#plain[@]})); then
		go test -json -count=1 -timeout 15m "${race[@]}" "${plain[@]}" || status=1
	fi
	pairs=()
	((${#alone[@]} == 0)) || mapfile -t pairs < <(printf '%s\n' "${alone[@]}" | grep -vxF "$module/cmd/miosa")
	if ((${#pairs[@]})); then
		go test -json -count=1 -timeout 20m -p 2 "${pairs[@]}" || status=1
	fi
	if ((${#pairs[@]} < ${#alone[@]})); then
		go test -json -count=1 -timeout 20m "$module/cmd/miosa" || status=1
	fi
	# The OpenTelemetry collector is a test's alone, and so in a module of its
	# own; what the platform's go.mod changed is looked up for the run.
	if [[ " $* " == *" ./... "* ]]; then
		mod=$(mktemp -d)
		cp logs/drain/oteltest/go.mod "$mod/otel.mod"
		cp logs/drain/oteltest/go.sum "$mod/otel.sum"
		go -C logs/drain/oteltest test -json -count=1 -timeout 15m -mod=mod -modfile="$mod/otel.mod" ./... || status=1
		rm -rf "$mod"
	fi
	exit $status
fi

. scripts/tools.sh
runner=$(gotestsum)
MIOSA_VICTORIA_LOGS=$(victoria_logs)
MIOSA_REGISTRY=$(registry)
export MIOSA_VICTORIA_LOGS MIOSA_REGISTRY
(($#)) || set -- ./...
# Administrators' commands (mkfs.ext4, ip) may lie outside PATH.
export PATH=$PATH:/usr/sbin:/sbin
exec "$runner" --format pkgname-and-test-fails --format-hide-empty-pkg --raw-command -- scripts/test.sh --events "$@"
