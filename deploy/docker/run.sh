#!/usr/bin/env bash
# Executes a complete run in containers: coordinator, agents and a server. See --help.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
workspace=$(cd "$here/../.." && pwd)

usage() {
    cat <<'HELP'
Usage: run.sh [--help] [PLAN]

Runs PLAN [experiments/plans/smoke/local-docker.toml] with the images of build.sh. Coordinator, agents and server run in a
container each, on networks without a route to the outside. They replace the plan's target and agents. The identity is
created for this run; agents get their own certificate, and never the authority's key. The script removes containers,
networks and volumes in every case when it ends. Its exit code is the coordinator's.

Environment variables:
  AGENTS               number of containers with an agent                  [3]
  SERVER               refserver, or openenv for the real openenv-core     [refserver]
  MAX_CONCURRENT_ENVS  concurrent sessions in each of its two workers      [16384]
  RESULTS              folder in which the results folder is created       [experiments/results/docker]
  RUN                  name of the results folder                          [the time]
  PREFIX, TAG          of the images                                       [muster, latest]
  NOFILE               open files of each container                        [20000]
HELP
}

fail() {
    printf 'run.sh: %s\n' "$*" >&2
    exit 1
}

case "${1-}" in
    -h | --help)
        usage
        exit 0
        ;;
    -*) fail "unknown flag '$1'; settings are environment variables, see --help" ;;
esac
[[ $# -le 1 ]] || fail "one plan at a time; see --help"

PLAN=${1:-$workspace/experiments/plans/smoke/local-docker.toml}
AGENTS=${AGENTS:-3}
SERVER=${SERVER:-refserver}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-16384}
RESULTS=${RESULTS:-$workspace/experiments/results/docker}
RUN=${RUN:-$(date -u +%Y-%m-%dT%H%M%SZ)}
PREFIX=${PREFIX:-muster}
TAG=${TAG:-latest}
NOFILE=${NOFILE:-20000}

[[ -f $PLAN ]] || fail "there is no plan $PLAN"
for name in AGENTS MAX_CONCURRENT_ENVS NOFILE; do
    [[ ${!name} =~ ^[1-9][0-9]{0,6}$ ]] || fail "$name must be a positive whole number, not '${!name}'"
done
[[ $RUN =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "RUN must be letters, digits, '.', '_' and '-', not '$RUN'"
files=(-f "$here/compose.yaml")
case $SERVER in
    refserver) ;;
    openenv) files+=(-f "$here/compose.openenv.yaml") ;;
    *) fail "SERVER must be refserver or openenv, not '$SERVER'" ;;
esac

command -v docker >/dev/null || fail "docker is not installed (Debian, Ubuntu: apt-get install docker.io)"
docker version --format '{{.Server.Version}}' >/dev/null 2>&1 ||
    fail "the Docker engine does not answer: $(docker version 2>&1 >/dev/null | tail -n 1)"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    fail "neither 'docker compose' nor docker-compose is there (Debian: apt-get install docker-compose)"
fi
for image in coordinator agent "$SERVER"; do
    docker image inspect "$PREFIX/$image:$TAG" >/dev/null 2>&1 ||
        fail "there is no image $PREFIX/$image:$TAG; make it with PREFIX=$PREFIX TAG=$TAG deploy/docker/build.sh $image"
done

mkdir -p "$RESULTS" || fail "cannot make the folder RESULTS=$RESULTS"
RESULTS=$(cd "$RESULTS" && pwd)
# The results belong to the user who starts this, except for root, because nothing in a container runs as root.
MUSTER_USER=$(id -u):$(id -g)
if [[ $(id -u) == 0 ]]; then
    MUSTER_USER=65532:65532
    chown "$MUSTER_USER" "$RESULTS"
fi
own=$(mktemp -d)
# A copy of the plan that this user can read, whatever the original's mode is.
install -m 644 "$PLAN" "$own/plan.toml"
chmod 755 "$own"
PLAN=$own/plan.toml
export PLAN AGENTS MAX_CONCURRENT_ENVS RESULTS RUN PREFIX TAG NOFILE MUSTER_USER
export COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-muster-$$}

running=
# However this script ends, only the results are left.
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    if [[ -n $running ]]; then
        kill -TERM "$running" 2>/dev/null || true
        wait "$running" 2>/dev/null || true
    fi
    "${compose[@]}" "${files[@]}" down --volumes --timeout 30 >/dev/null 2>&1 ||
        printf 'run.sh: something may be left of the project %s; see docker ps --all\n' "$COMPOSE_PROJECT_NAME" >&2
    rm -rf "$own"
}
trap cleanup EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

# In the background, because a trap does not run while a foreground command does.
attend() {
    local ended=0
    "${compose[@]}" "${files[@]}" "$@" &
    running=$!
    wait "$running" || ended=$?
    running=
    return "$ended"
}

identity=/muster/authority/identity
for words in "init" "issue-agent /muster/agents/identity"; do
    read -ra words <<<"$words"
    attend run --rm --no-deps coordinator identity "${words[@]}" --identity "$identity" >"$own/log" 2>&1 ||
        fail "cannot make an identity: $(cat "$own/log")"
done
plain=()
[[ -t 1 ]] || plain=(--no-color)
code=0
# Only the end of the coordinator ends the run; the coordinator itself handles lost agents.
attend up "${plain[@]}" --exit-code-from coordinator coordinator || code=$?
if [[ $code != 0 ]]; then
    printf 'run.sh: the coordinator ended with %s; what the others said last:\n' "$code" >&2
    "${compose[@]}" "${files[@]}" logs --tail 5 server agent >&2 || true
fi
[[ ! -d $RESULTS/$RUN ]] || printf 'results in %s\n' "$RESULTS/$RUN"
exit "$code"
