# Shared by the pack scripts of the real apps; sourced, not run.
#
# Each script lays out what a Dockerfile would in a temporary directory, and
# packs it as NAME/build/app.tar: a root file system, or an image as `docker
# save` writes it. Nothing needs root.
here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$here/build/app.tar}
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# debian_root PACKAGE…: a Debian with those packages, and what every one has.
debian_root() {
	empty_root
	debian_packages base-files dash coreutils "$@"
	# What the packages' own scripts would have done.
	rm -f "$root/usr/bin/sh"
	ln -s dash "$root/usr/bin/sh"
	mkdir -p "$root"/{run/lock,var/{log,lib,cache},home}
	rm -rf "$root/var/run"
	ln -s /run "$root/var/run"
	mkdir -p "$root/etc/ssl/certs"
	cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
}

# user NAME ID [HOME]: one that the image has.
user() {
	printf '%s:x:%d:%d::%s:/bin/sh\n' "$1" "$2" "$2" "${3:-/}" >>"$root/etc/passwd"
	printf '%s:x:%d:\n' "$1" "$2" >>"$root/etc/group"
}

# python_packages REQUIREMENT…: from PyPI, built for the image's Python.
python_packages() {
	local version
	version=$(basename "$(compgen -G "$root/usr/lib/python3.*" | head -n 1)")
	python3 -m pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: \
		--platform manylinux2014_x86_64 --implementation cp --python-version "${version#python}" \
		--target "$root/app/lib" "$@"
}

# rootfs: packs the tree as a root file system.
rootfs() {
	mkdir -p "$(dirname "$out")"
	tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$out.part" .
	mv "$out.part" "$out"
	say "$(du -h "$out" | cut -f1) in $out"
}

# image CONFIG: packs the tree as an image whose config is that JSON object.
image() {
	local dir layer config
	dir=$(mktemp -d)
	tar -C "$root" --owner=0 --group=0 --numeric-owner -cf "$dir/layer" .
	layer=$(sha256sum "$dir/layer" | cut -d' ' -f1)
	mkdir "$dir/$layer"
	mv "$dir/layer" "$dir/$layer/layer.tar"
	printf '{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$1" "$layer" >"$dir/config"
	config=$(sha256sum "$dir/config" | cut -d' ' -f1).json
	mv "$dir/config" "$dir/$config"
	printf '[{"Config":"%s","RepoTags":["%s:latest"],"Layers":["%s/layer.tar"]}]' "$config" "$name" "$layer" >"$dir/manifest.json"
	mkdir -p "$(dirname "$out")"
	tar -C "$dir" -cf "$out.part" "$config" "$layer" manifest.json
	rm -rf "$dir"
	mv "$out.part" "$out"
	say "$(du -h "$out" | cut -f1) in $out"
}
