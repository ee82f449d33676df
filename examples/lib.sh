# Shared by the pack scripts of the examples; sourced, not run.
#
# Each script lays out a root file system in a temporary directory and packs
# it as examples/NAME/build/rootfs.tar.zst. Nothing here needs root, and
# several may run at once.
#
#   OUT=FILE      pack there instead
#   VERSION=WORD  what a Go example calls its version (default: 1)
set -euo pipefail

examples=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$examples")
here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$here")
out=${OUT:-$here/build/rootfs.tar.zst}
version=${VERSION:-1}
# Relative to the caller, not to the repository, where go runs.
[[ $out == /* ]] || out=$PWD/$out

root=$(mktemp -d)
trap 'chmod -R u+w "$root" && rm -rf "$root"' EXIT

say() { printf '%s: %s\n' "$name" "$*"; }

# empty_root makes the directories and files that every tree has.
empty_root() {
	chmod 755 "$root"
	mkdir -p "$root"/{app,data,etc,run,tmp,var/tmp}
	chmod 1777 "$root/tmp" "$root/var/tmp"
	printf '%s\n' \
		'root:x:0:0:root:/:/bin/sh' \
		'app:x:1000:1000:app:/app:/bin/false' \
		'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >"$root/etc/passwd"
	printf '%s\n' 'root:x:0:' 'app:x:1000:' 'nogroup:x:65534:' >"$root/etc/group"
	printf '%s\n' 'hosts: files dns' 'passwd: files' 'group: files' >"$root/etc/nsswitch.conf"
}

# go_app builds this example's Go program as a static /app/server.
go_app() {
	say "building a static binary, version $version"
	(cd "$repository" && CGO_ENABLED=0 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$version" -o "$root/app/server" "./examples/$name")
	# So that the app can call the world over TLS, where this machine knows whom to trust.
	if [[ -r /etc/ssl/certs/ca-certificates.crt ]]; then
		mkdir -p "$root/etc/ssl/certs"
		cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
	fi
}

# debian_packages PACKAGE…: unpacks the packages with all they depend on, as
# apt resolves them against the archive alone, whatever this machine has
# installed. A package named -PACKAGE is left out although one depends on it.
debian_packages() {
	local cache=${XDG_CACHE_HOME:-$HOME/.cache}/miosa/examples wanted=() unwanted=' ' p
	for p in "$@"; do
		if [[ $p == -* ]]; then unwanted+="${p#-} "; else wanted+=("$p"); fi
	done
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
		say "apt-get and dpkg-deb are needed to fetch Debian's packages" >&2
		return 1
	}
	mkdir -p "$cache"/{apt/archives/partial,lists/partial,debs,empty}
	: >"$cache/status"
	local apt=(-o "Dir::State::status=$cache/status" -o "Dir::Cache=$cache/apt"
		-o Debug::NoLocking=1 -o APT::Install-Recommends=0 -o APT::Sandbox::User=
		-o APT::Get::AllowUnauthenticated=0)
	# Without the machine's own package lists, keep some here: that needs no root.
	if ! compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then
		apt+=(-o "Dir::State::lists=$cache/lists")
		say "fetching package lists"
		apt-get "${apt[@]}" -qq update
	fi
	say "resolving ${wanted[*]}"
	local resolved install package
	resolved=$(apt-get "${apt[@]}" -qq --simulate install "${wanted[@]}" | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
	[[ -n $resolved ]] || { say "apt resolved nothing" >&2; return 1; }

	# /bin, /lib … are links into /usr, as on every Debian of today.
	local d
	for d in bin sbin lib lib64; do
		mkdir -p "$root/usr/$d"
		ln -sfn "usr/$d" "$root/$d"
	done
	install=()
	for package in $resolved; do
		[[ $unwanted == *" ${package%%[=:]*} "* ]] || install+=("$package")
	done
	local missing=()
	for package in "${install[@]}"; do
		compgen -G "$cache/debs/$(deb_pattern "$package")" >/dev/null || missing+=("$package")
	done
	say "${#install[@]} packages, ${#missing[@]} of them to download"
	if ((${#missing[@]})); then
		(cd "$cache/debs" && apt-get "${apt[@]}" -qq download "${missing[@]}")
	fi
	for package in "${install[@]}"; do
		dpkg-deb --fsys-tarfile "$(compgen -G "$cache/debs/$(deb_pattern "$package")" | head -n 1)" |
			tar -x -C "$root" --no-same-owner --keep-directory-symlink
	done
	# What no app reads.
	rm -rf "$root"/usr/share/{doc,doc-base,man,info,lintian,locale,bug,gcc,bash-completion,applications,pixmaps,readline} \
		"$root"/var/{cache,lib/dpkg} "$root"/usr/lib/x86_64-linux-gnu/gconv
}

# deb_pattern NAME=VERSION: the file name apt gives it, for any architecture.
deb_pattern() { printf '%s_%s_*.deb' "${1%%[=:]*}" "$(sed 's/^[^=]*=//; s/:/%3a/g' <<<"$1")"; }

# finish packs the tree.
finish() {
	(cd "$repository" && go run ./examples/pack "$root" "$out")
}
