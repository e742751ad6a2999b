#!/usr/bin/env bash
# base.sh CACHE REQUIREMENTS IMAGE: an archive of a Debian root with python3, and with the packages of REQUIREMENTS in a folder
# that its pip takes them from. Prints the archive's name, last. Made once for each REQUIREMENTS; IMAGE is a name to import the
# root under meanwhile.
set -euo pipefail
cache=$1 requirements=$2 image=$3

# A change of this file makes another archive too.
archive=$cache/$(cat "$requirements" "${BASH_SOURCE[0]}" | sha256sum | cut -c 1-16).tar.gz
if [[ -s $archive ]]; then
    echo "$archive"
    exit 0
fi
work=$(mktemp -d)
trap 'docker image rm --force "$image" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

# From where this machine gets its own packages.
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\?\(http[^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources \
    2>/dev/null | grep -v security | head -n 1) || true
root=$work/root
debootstrap --variant=minbase --include=python3-minimal,python3-venv,ca-certificates bookworm "$root" ${mirror:+"$mirror"} \
    >"$work/log" 2>&1 || {
    tail -n 20 "$work/log"
    exit 1
}
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
# Whom this machine trusts, and how its pip is set up.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
settings=()
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST HTTP_PROXY HTTPS_PROXY http_proxy https_proxy no_proxy; do
    [[ -z ${!name-} ]] || settings+=(--env "$name")
done
[[ ! -f /etc/pip.conf ]] || cp /etc/pip.conf "$root/etc/pip.conf"

tar -C "$root" -c . | docker import - "$image" >/dev/null
mkdir -p "$root/opt/wheels"
docker run --rm --network host "${settings[@]}" --volume "$root/opt/wheels:/wheels" --volume "$requirements:/requirements.txt:ro" \
    "$image" sh -c 'python3 -m venv /tmp/venv && /tmp/venv/bin/python -m pip download --quiet -d /wheels -r /requirements.txt'
printf '[global]\nno-index = true\nfind-links = /opt/wheels\n' >"$root/etc/pip.conf"
tar -C "$root" -c . | gzip -1 >"$work/archive"
# Those of earlier requirements serve nobody any more.
rm -f "$cache"/*.tar.gz
mv "$work/archive" "$archive"
echo "$archive"
