#!/usr/bin/env bash
# Starts the real OpenEnv server (uvicorn with the benchmark environment) in a container of this machine. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"

usage() {
    cat <<'HELP'
Usage: run_docker.sh [--help]

Starts the image of the OpenEnv benchmark environment in a container and stays in the foreground. It removes the container
in every case when it ends, for example by SIGTERM or SIGINT. It builds the image first if it is missing. Once every worker
serves, it writes a connection file, which it removes at exit.

Environment variables:
  WORKERS              worker processes                                   [8]
  HOST                 address of this machine to publish the port on     [127.0.0.1]
  PORT                 port to publish                                    [8000]
  MAX_CONCURRENT_ENVS  concurrent WebSocket sessions per worker           [100]
  REACH                published: clients use the published port, and on a loopback address a process of Docker that takes
                       five descriptors per connection; address: clients use the container's own address, which works only
                       from this machine                                  [published]
  CPUS                 limit of processor time, in CPUs; 0: no limit      [0]
  NOFILE               open files of each worker                          [20000]
  IMAGE                image, PREFIX/openenv:TAG                          [muster/openenv:latest]
  BASE                 base image, if the image must be built             [python:3.11-slim-bookworm]
  BUILD_FLAGS          more flags for `docker build`
  NAME                 name of the container                              [muster-openenv-PORT]
  CONNECTION_FILE      file to write with the server's address            [deploy/local/connection-docker.toml]
  LOG_LEVEL            of uvicorn; below critical, it logs a traceback for
                       every client that sends no close frame             [critical]
  START_SECONDS_MAX    how long the server may take to start              [180]
HELP
}

only_help "$@"

WORKERS=${WORKERS:-8}
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-8000}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-100}
REACH=${REACH:-published}
CPUS=${CPUS:-0}
NOFILE=${NOFILE:-20000}
IMAGE=${IMAGE:-muster/openenv:latest}
BASE=${BASE:-python:3.11-slim-bookworm}
NAME=${NAME:-muster-openenv-$PORT}
CONNECTION_FILE=${CONNECTION_FILE:-$here/connection-docker.toml}
LOG_LEVEL=${LOG_LEVEL:-critical}
START_SECONDS_MAX=${START_SECONDS_MAX:-180}

whole_number WORKERS PORT MAX_CONCURRENT_ENVS NOFILE START_SECONDS_MAX
[[ $HOST =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] || fail "HOST must be an IPv4 address of this machine, not '$HOST'"
[[ $REACH == published || $REACH == address ]] || fail "REACH must be published or address, not '$REACH'"
[[ $CPUS =~ ^[0-9]{1,4}(\.[0-9]{1,2})?$ ]] || fail "CPUS must be a number, not '$CPUS'"
[[ $NAME =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || fail "NAME must be letters, digits, '_', '.' and '-', not '$NAME'"
[[ $LOG_LEVEL =~ ^[a-z]+$ ]] || fail "LOG_LEVEL must be one of uvicorn's, such as critical or info, not '$LOG_LEVEL'"
[[ $IMAGE =~ ^([a-z0-9][a-z0-9._/:-]*)/openenv:([A-Za-z0-9_][A-Za-z0-9_.-]*)$ ]] ||
    fail "IMAGE must be PREFIX/openenv:TAG, as deploy/docker/build.sh names it, not '$IMAGE'"
prefix=${BASH_REMATCH[1]} tag=${BASH_REMATCH[2]}
folder_exists CONNECTION_FILE

need_docker
! docker container inspect "$NAME" >/dev/null 2>&1 ||
    fail "there is a container $NAME already: PORT=... takes another port, docker rm --force $NAME removes it"

container=
run=$(mktemp -d)

# However this script ends, it removes the container.
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    end_child
    # Docker writes the id as soon as the container exists, even if its start fails.
    container=$(cat "$run/id" 2>/dev/null || true)
    if [[ -n $container ]]; then
        docker stop --time 10 "$container" >/dev/null 2>&1 || true
        docker rm --force "$container" >/dev/null 2>&1 ||
            note "cannot remove the container $NAME"
    fi
    remove_own_connection
    rm -rf "$run"
}
at_exit cleanup

die_with_log() {
    docker logs --tail 20 "$container" >"$run/log" 2>&1 || true
    fail_with_log "$run/log" "$1"
}

if ! docker image inspect "$IMAGE" >/dev/null 2>&1; then
    note "building $IMAGE on $BASE"
    PREFIX=$prefix TAG=$tag OPENENV_BASE=$BASE attend "$here/../docker/build.sh" openenv >/dev/null ||
        fail "cannot build $IMAGE"
fi

publish=()
[[ $REACH == address ]] || publish=(--publish "$HOST:$PORT:$PORT")
limit=()
[[ $CPUS =~ ^0+(\.0+)?$ ]] || limit=(--cpus "$CPUS")
docker run --detach --cidfile "$run/id" --name "$NAME" --init --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges:true \
    --ulimit "nofile=$NOFILE:$NOFILE" "${limit[@]}" "${publish[@]}" \
    --env "WORKERS=$WORKERS" --env "PORT=$PORT" --env "MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS" \
    --env "LOG_LEVEL=$LOG_LEVEL" "$IMAGE" >/dev/null ||
    fail "cannot start a container of $IMAGE; is another server on $HOST:$PORT? PORT=... takes another port"
container=$(cat "$run/id")

if [[ $REACH == address ]]; then
    reach=$(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$container" | cut -d ' ' -f 1)
    [[ -n $reach ]] || die_with_log "the container has no address"
else
    # Clients can't connect to 0.0.0.0.
    reach=${HOST/#0.0.0.0/127.0.0.1}
fi
url=http://$reach:$PORT

# Returns 0 when all workers serve. It runs the image's health check sooner and more often than Docker does.
# shellcheck disable=SC2317 # attend calls it
ready() {
    local end=$((SECONDS + START_SECONDS_MAX))
    while ((SECONDS < end)); do
        if docker exec "$container" python healthcheck.py >/dev/null 2>&1; then
            return 0
        fi
        [[ $(docker inspect --format '{{.State.Running}}' "$container" 2>/dev/null) == true ]] || return 3
        sleep 0.2
    done
    return 4
}
started=0
attend ready || started=$?
case $started in
    0) ;;
    3) die_with_log "the server ended while it started" ;;
    *) die_with_log "not all $WORKERS workers served within $START_SECONDS_MAX s" ;;
esac

cores=$CPUS
[[ ${#limit[@]} -gt 0 ]] || cores=$(nproc)
write_own_connection "urls[]=$url" "workers=$WORKERS" "max_concurrent_envs=$MAX_CONCURRENT_ENVS" nodes=1 \
    "cpus_per_node=${cores%%.*}" "backends[]=$(docker inspect --format '{{.Config.Hostname}}' "$container")" \
    "start_command=WORKERS=$WORKERS HOST=$HOST PORT=$PORT MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS REACH=$REACH IMAGE=$IMAGE ./deploy/local/run_docker.sh"
printf 'serving %s with %s workers of %s sessions in the container %s; connection file: %s\n' \
    "$url" "$WORKERS" "$MAX_CONCURRENT_ENVS" "$NAME" "$CONNECTION_FILE"

attend docker wait "$container" >/dev/null || true
die_with_log "the server ended by itself with status $(docker inspect --format '{{.State.ExitCode}}' "$container" 2>/dev/null || echo unknown)"
