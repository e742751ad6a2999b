#!/usr/bin/env bash
# Puts together what the image of the OpenEnv environment is built from. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
openenv=$here/../../openenv

usage() {
    cat <<'HELP'
Usage: stage.sh DIR

Copies the Dockerfile of the OpenEnv environment and everything that it copies into DIR, which must not exist or be empty.
deploy/docker/build.sh and deploy/hf_spaces/deploy.sh build from it.
HELP
}

fail() {
    printf 'stage.sh: %s\n' "$*" >&2
    exit 1
}

case "${1-}" in
    -h | --help)
        usage
        exit 0
        ;;
    '' | -*)
        usage >&2
        exit 2
        ;;
esac
dir=$1
[[ ! -e $dir || -d $dir ]] || fail "$dir is no folder"
[[ -z $(ls -A "$dir" 2>/dev/null) ]] || fail "$dir is not empty; give another folder"
mkdir -p "$dir/app/benchmark_env"
cp "$here/Dockerfile" "$openenv/requirements.txt" "$dir"
cp "$here/serve.sh" "$here/healthcheck.py" "$dir/app"
# By name: caches of Python and of editors may lie beside them.
cp "$openenv"/benchmark_env/*.py "$dir/app/benchmark_env"
# Whoever builds may have a umask that lets nobody else read.
chmod -R u=rwX,go=rX "$dir"
