#!/usr/bin/env bash
# Creates the build context of the OpenEnv environment's image. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../../common.sh"
openenv=$deploy/openenv

usage() {
    cat <<'HELP'
Usage: stage.sh DIR

Copies the Dockerfile of the OpenEnv environment, and every file that it needs, into DIR. DIR must be empty or not exist.
deploy/docker/build.sh and deploy/hf_spaces/deploy.sh build from it.
HELP
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
# Only *.py, because caches of Python and of editors may be in the same folder.
cp "$openenv"/benchmark_env/*.py "$dir/app/benchmark_env"
# The umask of the user who builds may deny others to read.
chmod -R u=rwX,go=rX "$dir"
