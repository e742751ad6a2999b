#!/usr/bin/env bash
# Executes a complete run in containers: coordinator, agents and a server. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"

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

case "${1-}" in
    -h | --help)
        usage
        exit 0
        ;;
    -*) fail "unknown flag '$1'; settings are environment variables, see --help" ;;
esac
[[ $# -le 1 ]] || fail "one plan at a time; see --help"

PLAN=${1:-$repository/experiments/plans/smoke/local-docker.toml}
AGENTS=${AGENTS:-3}
SERVER=${SERVER:-refserver}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-16384}
RESULTS=${RESULTS:-$repository/experiments/results/docker}
RUN=${RUN:-$(date -u +%Y-%m-%dT%H%M%SZ)}
PREFIX=${PREFIX:-muster}
TAG=${TAG:-latest}
NOFILE=${NOFILE:-20000}

[[ -f $PLAN ]] || fail "there is no plan $PLAN"
whole_number AGENTS MAX_CONCURRENT_ENVS NOFILE
[[ $RUN =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "RUN must be letters, digits, '.', '_' and '-', not '$RUN'"
files=(-f "$here/compose.yaml")
case $SERVER in
    refserver) ;;
    openenv) files+=(-f "$here/compose.openenv.yaml") ;;
    *) fail "SERVER must be refserver or openenv, not '$SERVER'" ;;
esac

need_docker
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
else
    fail "neither 'docker compose' nor docker-compose is there (Debian: apt-get install docker-compose)"
fi
compose+=("${files[@]}")
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

# However this script ends, only the results are left.
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    end_child
    "${compose[@]}" down --volumes --timeout 30 >/dev/null 2>&1 ||
        note "something may be left of the project $COMPOSE_PROJECT_NAME; see docker ps --all"
    rm -rf "$own"
}
at_exit cleanup

identity=/muster/authority/identity
for words in "init" "issue-agent /muster/agents/identity"; do
    read -ra words <<<"$words"
    attend "${compose[@]}" run --rm --no-deps coordinator identity "${words[@]}" --identity "$identity" >"$own/log" 2>&1 ||
        fail "cannot make an identity: $(cat "$own/log")"
done
plain=()
[[ -t 1 ]] || plain=(--no-color)
code=0
# Only the end of the coordinator ends the run; the coordinator itself handles lost agents.
attend "${compose[@]}" up "${plain[@]}" --exit-code-from coordinator coordinator || code=$?
if [[ $code != 0 ]]; then
    note "the coordinator ended with $code; what the others said last:"
    "${compose[@]}" logs --tail 5 server agent >&2 || true
fi
[[ ! -d $RESULTS/$RUN ]] || printf 'results in %s\n' "$RESULTS/$RUN"
exit "$code"
