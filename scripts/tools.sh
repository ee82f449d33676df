# Pinned tools of the build; sourced, not run. A tool is compiled on first use
# and kept in the user's cache, under its version.

# again COMMAND…: what fetches from the network gets three attempts.
again() {
	local pause
	for pause in 5 15 0; do
		"$@" && return
		((pause)) || return 1
		printf 'failed, once more in %d s: %s\n' "$pause" "$*" >&2
		sleep "$pause"
	done
}

# tool NAME VERSION PACKAGE: prints the path of the program.
tool() {
	local dir=${XDG_CACHE_HOME:-$HOME/.cache}/miosa/tools/$1-$2
	if [[ ! -x $dir/$1 ]]; then
		printf 'compiling %s %s\n' "$1" "$2" >&2
		# Compiled aside and moved: an interrupted build leaves no half tool.
		local fresh
		mkdir -p "$dir" || return
		fresh=$(mktemp -d "$dir/.new.XXXXXX") || return
		GOBIN=$fresh GOFLAGS= again go install "$3@$2" || return
		mv "$fresh/$1" "$dir/$1" || return
		rmdir "$fresh"
	fi
	printf '%s/%s\n' "$dir" "$1"
}

golangci_lint() { tool golangci-lint v2.15.0 github.com/golangci/golangci-lint/v2/cmd/golangci-lint; }
gotestsum() { tool gotestsum v1.13.0 gotest.tools/gotestsum; }
# What the log store's adapter is tested against.
victoria_logs() { tool victoria-logs v1.52.1 github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs; }
# What images are pulled from in tests.
registry() { tool registry v3.1.2 github.com/distribution/distribution/v3/cmd/registry; }
