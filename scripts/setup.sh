#!/usr/bin/env bash
# Installs what the platform needs and this machine lacks. Meant for Debian
# and its children; elsewhere it says what to install. --tests: also what the
# tests alone need. --real: also what the real apps are packed and asked with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*"; }

# Command → Debian package. Administrators' commands may lie outside PATH.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
need() {
	command -v "$1" >/dev/null || missing+=("$2")
}
need qemu-system-x86_64 qemu-system-x86 # runs the VMs
need mkfs.ext4 e2fsprogs                # makes their private disks
need depmod kmod                        # orders the guest's kernel modules
need ip iproute2                        # network namespaces of the tests
need curl curl                          # the demo
if [[ ${1-} == --tests ]]; then
	need rsyslogd rsyslog # what log drains are tested against
	compgen -G '/usr/lib/*/rsyslog/lmnsd_ossl.so' >/dev/null || missing+=(rsyslog-openssl)
fi
if [[ ${1-} == --real ]]; then
	python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
	need npm npm
	need mvn maven
	need psql postgresql-client
fi
[[ -r /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)

command -v go >/dev/null || {
	say "Go is not installed: get version $(sed -n 's/^go //p' go.mod) or newer (https://go.dev/doc/install)" >&2
	exit 1
}

if [[ ${1-} == --tests ]]; then
	. scripts/tools.sh
	victoria_logs >/dev/null
	registry >/dev/null
fi

# The guest's kernel is downloaded with apt too, and needs to be known to it.
lists=yes
if command -v apt-cache >/dev/null && [[ -z $(apt-cache --no-all-versions show linux-image-cloud-amd64 2>/dev/null) ]]; then
	lists=no
fi

if ((${#missing[@]} == 0)) && [[ $lists == yes ]]; then
	say "nothing is missing"
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	say "this machine has no apt-get; install what these Debian packages hold: ${missing[*]:-linux-image-cloud-amd64}" >&2
	exit 1
fi

as_root=()
if ((EUID != 0)); then
	if ! command -v sudo >/dev/null; then
		say "not root, and no sudo. As root, run:" >&2
		printf '\n    apt-get update && apt-get install --no-install-recommends %s\n\n' "${missing[*]}" >&2
		exit 1
	fi
	as_root=(sudo)
fi
# An env that sudo would drop goes on the command's own line. RUNLEVEL=1: no
# service is started for having been installed.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)

say "apt-get update"
"${apt[@]}" update
if ((${#missing[@]})); then
	say "installing ${missing[*]}"
	"${apt[@]}" install --yes --no-install-recommends "${missing[@]}"
fi
say "done"
