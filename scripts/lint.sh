#!/usr/bin/env bash
# Everything that judges the source without running it. All checks run; the
# exit code tells whether every one was content.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/tools.sh

status=0
check() {
	printf '== %s\n' "$1"
	shift
	"$@" || status=1
}

formatted() {
	local wrong
	# The gofmt of this Go: PATH may have another one, or none.
	wrong=$(git ls-files -co --exclude-standard -- '*.go' | xargs -r "$(go env GOROOT)/bin/gofmt" -l) || return 1
	[[ -z $wrong ]] || {
		printf 'not formatted by gofmt:\n%s\n' "$wrong"
		return 1
	}
}

scripts_parse() {
	local script bad=0
	while IFS= read -r script; do
		bash -n "$script" || bad=1
	done < <(git ls-files -co --exclude-standard -- '*.sh' '*/pack' examples/check .ci/run)
	return $bad
}

linter=$(golangci_lint)
check 'gofmt' formatted
check 'bash -n' scripts_parse
check 'go mod tidy' go mod tidy -diff
check 'go mod tidy (oteltest)' go -C logs/drain/oteltest mod tidy -diff
check 'go vet' go vet ./...
check 'go fix' go fix -diff ./...
check 'golangci-lint' "$linter" run --allow-parallel-runners ./...
check 'import law' go test -count=1 -run '^(TestArchitecture|TestRulesSeeViolations)$' .
exit $status
