#!/usr/bin/env bash
# Builds the images of Muster. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"
rust=(coordinator agent refserver)

usage() {
    cat <<'HELP'
Usage: build.sh [--help] [IMAGE...]

Builds images for the Docker engine of this machine: coordinator, agent, refserver and openenv, or only those that you name.
cargo compiles the first three here to static binaries; their images contain only the binary and a few lines of
configuration. openenv is the OpenEnv benchmark environment with its Python packages.

Environment variables:
  PREFIX         the images are named PREFIX/coordinator and so on        [muster]
  TAG            tag of the images                                        [latest]
  BASE           base image of the three Rust programs; any image works   [scratch]
  OPENENV_BASE   base image of openenv; needs python3 with venv, a shell  [python:3.11-slim-bookworm]
  PROFILE        cargo profile: release, or dev, which builds faster      [release]
  TARGET         cargo's target triple                                    [this machine's]
  BUILD_FLAGS    more flags for `docker build`, separated by spaces, such as --network=host or --no-cache
HELP
}

wanted=()
for name in "$@"; do
    case $name in
        -h | --help)
            usage
            exit 0
            ;;
        coordinator | agent | refserver | openenv) wanted+=("$name") ;;
        *) fail "unknown image '$name'; there are coordinator, agent, refserver and openenv" ;;
    esac
done
[[ ${#wanted[@]} -gt 0 ]] || wanted=("${rust[@]}" openenv)

PREFIX=${PREFIX:-muster}
TAG=${TAG:-latest}
BASE=${BASE:-scratch}
OPENENV_BASE=${OPENENV_BASE:-python:3.11-slim-bookworm}
PROFILE=${PROFILE:-release}
read -ra flags <<<"${BUILD_FLAGS:-}"

[[ $PREFIX =~ ^[a-z0-9][a-z0-9._/:-]*$ ]] || fail "PREFIX must be the beginning of an image's name, not '$PREFIX'"
[[ $TAG =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "TAG must be letters, digits, '_', '.' and '-', not '$TAG'"
[[ $PROFILE =~ ^[a-z][a-z0-9-]*$ ]] || fail "PROFILE must be a profile of cargo, such as release or dev, not '$PROFILE'"
for name in BASE OPENENV_BASE; do
    [[ ${!name} =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || fail "$name must be the name of an image, not '${!name}'"
done
need_docker

context=$(mktemp -d)
# shellcheck disable=SC2016 # it expands at the end
at_exit 'rm -rf "$context"'

# Compiles the three Rust programs statically into the build context, without debug symbols.
compile() {
    command -v cargo >/dev/null || fail "cargo is not installed (https://rustup.rs)"
    local target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')} built name
    [[ $target =~ ^[a-z0-9_]+(-[a-z0-9_]+){2,3}$ ]] || fail "TARGET must be a target triple, not '$target'"
    # An older glibc loads libraries at run time to resolve names, and an empty image has none.
    case $target in
        *-gnu*)
            printf '2.34\n%s\n' "$(getconf GNU_LIBC_VERSION | cut -d ' ' -f 2)" | sort -CV ||
                fail "a static program needs glibc 2.34 to look names up, this is $(getconf GNU_LIBC_VERSION); build elsewhere"
            ;;
    esac
    # --target and a variable of this target only, because procedural macros can't be linked statically.
    local variable=CARGO_TARGET_${target^^}_RUSTFLAGS
    variable=${variable//-/_}
    (
        cd "$repository"
        unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
        env "$variable=-C target-feature=+crt-static" \
            cargo build --locked --quiet --profile "$PROFILE" --target "$target" \
            -p coordinator -p agent -p refserver --bins
    ) || fail "cargo could not build the programs; its messages are above"
    built=$(cd "$repository" && cargo metadata --format-version 1 --no-deps --offline |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
    # The output folder of the profile dev is named debug.
    built+=/$target/${PROFILE/#dev/debug}
    for name in "${rust[@]}"; do
        strip -o "$context/$name" "$built/$name" || fail "strip is missing (Debian, Ubuntu: apt-get install binutils)"
    done
}

# The files that the three images have in common.
rootfs() {
    local root=$context/rootfs
    mkdir -p "$root/etc" "$root/tmp" "$root/muster/authority" "$root/muster/agents" "$root/muster/results"
    # Any user may run the programs. A volume takes its mode from the folder over which it is mounted.
    chmod 755 "$root" "$root/etc" "$root/muster"
    chmod 1777 "$root/tmp" "$root/muster"/*
    # Without this file, a static glibc asks the name server first, even for localhost.
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
    chmod 644 "$root/etc/nsswitch.conf"
}

build() {
    local name=$1
    shift
    note "building $PREFIX/$name:$TAG"
    docker build --quiet "${flags[@]}" --tag "$PREFIX/$name:$TAG" "$@" ||
        fail "docker could not build $PREFIX/$name:$TAG; its messages are above"
}

if [[ " ${wanted[*]} " =~ \ (coordinator|agent|refserver)\  ]]; then
    note "compiling the programs (profile $PROFILE)"
    cp "$here/Dockerfile" "$context"
    compile
    rootfs
fi
for name in "${wanted[@]}"; do
    case $name in
        openenv)
            "$here/openenv/stage.sh" "$context/openenv"
            build openenv --build-arg "BASE=$OPENENV_BASE" "$context/openenv"
            ;;
        *) build "$name" --target "$name" --build-arg "BASE=$BASE" "$context" ;;
    esac
done
