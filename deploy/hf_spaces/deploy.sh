#!/usr/bin/env bash
# Deploys the OpenEnv benchmark environment as a Hugging Face Space. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"

usage() {
    cat <<'HELP'
Usage: deploy.sh --repo-id OWNER/NAME [--private] [--overwrite] [--hardware FLAVOUR] [--dry-run]

Creates the Space if it does not exist, sets its variables, uploads the environment (and deletes files that are no longer
part of it), waits until it serves, and writes a connection file for the plan. It uses the token of `hf auth login`, or HF_TOKEN.

  --repo-id OWNER/NAME  the Space
  --private             make the Space private, even if it exists and is public. Muster's agents send no token, so they can
                        load public Spaces only. Without this flag a new Space is public, and a private Space stays private.
  --overwrite           replace any content of the Space; without it, only an earlier deployment or an empty Space
  --hardware FLAVOUR    request this hardware, such as cpu-basic or cpu-upgrade (which costs money)
  --dry-run             show every file and every call, and send nothing; needs no token and no network

Environment variables:
  WORKERS              worker processes of uvicorn                      [2]
  MAX_CONCURRENT_ENVS  concurrent WebSocket sessions per worker         [100]
  CONNECTION_FILE      file to write with the Space's address           [deploy/hf_spaces/connection.toml]
  VENV                 Python virtual environment, created if missing   [deploy/hf_spaces/.venv]
  START_SECONDS_MAX    how long the Space may take to build and start   [1200]
HELP
}

misuse() { usage_fault "$*; see --help"; }

repo_id='' private=0 overwrite=0 hardware='' dry_run=0
while [[ $# -gt 0 ]]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --repo-id | --hardware)
            [[ $# -ge 2 && $2 != -* ]] || misuse "$1 needs a value"
            if [[ $1 == --repo-id ]]; then repo_id=$2; else hardware=$2; fi
            shift
            ;;
        --private) private=1 ;;
        --overwrite) overwrite=1 ;;
        --dry-run) dry_run=1 ;;
        *) misuse "unknown argument '$1'" ;;
    esac
    shift
done
[[ -n $repo_id ]] || misuse "which Space? give --repo-id OWNER/NAME"
[[ $repo_id =~ ^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$ && $repo_id != *--* && $repo_id != *..* &&
    $repo_id =~ [A-Za-z0-9]$ && ${#repo_id} -le 96 ]] ||
    misuse "--repo-id '$repo_id': give OWNER/NAME of letters, digits, '-', '_' and '.', 96 characters at most"
[[ -z $hardware || $hardware =~ ^[a-z0-9][a-z0-9-]*$ ]] || misuse "--hardware '$hardware': give a flavour such as cpu-basic"

WORKERS=${WORKERS:-2}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-100}
CONNECTION_FILE=${CONNECTION_FILE:-$here/connection.toml}
VENV=${VENV:-$here/.venv}
START_SECONDS_MAX=${START_SECONDS_MAX:-1200}
whole_number WORKERS MAX_CONCURRENT_ENVS START_SECONDS_MAX
folder_exists CONNECTION_FILE
need python3 "python3 python3-venv"

own=$(mktemp -d)
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    end_child
    rm -rf "$own"
}
at_exit cleanup

"$here/../docker/openenv/stage.sh" "$own/space"
cp "$here/README.md" "$own/space"
chmod 644 "$own/space/README.md"

python=python3
if [[ $dry_run == 0 ]]; then
    install_packages "$here/requirements.txt"
    python=$VENV/bin/python
fi
command="WORKERS=$WORKERS MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS ./deploy/hf_spaces/deploy.sh --repo-id $repo_id"
# Without --overwrite: after this deployment it is not needed, and a repeated command should check the Space again.
[[ $private == 0 ]] || command+=" --private"
[[ -z $hardware ]] || command+=" --hardware $hardware"

code=0
REPO_ID=$repo_id PRIVATE=$private OVERWRITE=$overwrite HARDWARE=$hardware DRY_RUN=$dry_run WORKERS=$WORKERS \
    MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS CONNECTION_FILE=$CONNECTION_FILE START_COMMAND=$command \
    START_SECONDS_MAX=$START_SECONDS_MAX LIBRARY=$(head -n 1 "$here/requirements.txt") \
    PYTHONDONTWRITEBYTECODE=1 attend "$python" "$here/deploy.py" "$own/space" || code=$?
exit "$code"
