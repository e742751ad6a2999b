#!/usr/bin/env bash
# Starts the real OpenEnv server (uvicorn with the benchmark environment) on this machine. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"
openenv=$deploy/openenv

usage() {
    cat <<'HELP'
Usage: run_uvicorn.sh [--install | --help]

Starts the OpenEnv benchmark environment under uvicorn, stays in the foreground, and stops it on SIGTERM or SIGINT.
It installs the Python packages on first use. Once every worker serves, it writes a connection file, which it removes
at exit. With --install it only installs the packages.

Environment variables:
  WORKERS              worker processes                                   [8]
  HOST                 address to listen on                               [127.0.0.1]
  PORT                 port to listen on                                  [8000]
  REACH                name by which clients reach this machine           [HOST]
  MAX_CONCURRENT_ENVS  concurrent WebSocket sessions per worker           [100]
  OPENENV              the server's version: 0.3.0 (openenv-core) or
                       0.10.0 (openenv)                                   [0.3.0]
  VENV                 Python virtual environment, created if missing     [deploy/openenv/.venv, .venv-0.10.0]
  APP_DIR, APP         folder and module:name of another application;
                       it gets the environment variables of this script   [deploy/openenv, benchmark_env.app:app]
  UVICORN_FLAGS        more flags of uvicorn, separated by spaces         []
  CONNECTION_FILE      file to write with the server's address            [deploy/local/connection.toml]
  START_COMMAND        start command to record in the connection file     [this script]
  LOG_LEVEL            of uvicorn; below critical, it logs a traceback for
                       every client that sends no close frame             [critical]
  START_SECONDS_MAX    how long the server may take to start              [180]
HELP
}

install_only=
if [[ ${1-} == --install ]]; then install_only=1; else only_help "$@"; fi

WORKERS=${WORKERS:-8}
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-8000}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-100}
OPENENV=${OPENENV:-0.3.0}
case $OPENENV in
    0.3.0) requirements=$openenv/requirements.txt venv=$openenv/.venv ;;
    0.10.0) requirements=$openenv/requirements-0.10.0.txt venv=$openenv/.venv-0.10.0 ;;
    *) fail "OPENENV must be 0.3.0 or 0.10.0, not '$OPENENV'" ;;
esac
VENV=${VENV:-$venv}
APP_DIR=${APP_DIR:-$openenv}
APP=${APP:-benchmark_env.app:app}
read -r -a uvicorn_flags <<<"${UVICORN_FLAGS-}"
CONNECTION_FILE=${CONNECTION_FILE:-$here/connection.toml}
LOG_LEVEL=${LOG_LEVEL:-critical}
START_SECONDS_MAX=${START_SECONDS_MAX:-180}
# An absolute path, because the server runs in another folder.
[[ $VENV == /* ]] || VENV=$PWD/$VENV

whole_number WORKERS PORT MAX_CONCURRENT_ENVS START_SECONDS_MAX
[[ $HOST =~ ^[0-9A-Za-z.:_-]+$ ]] || fail "HOST must be a host name or an address, not '$HOST'"
folder_exists CONNECTION_FILE

# Some machines have an older Python than openenv's packages need.
install() {
    if [[ ! -x $VENV/bin/python ]]; then
        need python3 "python3 python3-venv"
        python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "openenv-core needs Python 3.10 or newer"
    fi
    install_packages "$requirements"
}

server=
waiter=

# However this script ends, it leaves no process of the server: the server has its own process group.
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    [[ -z $waiter ]] || kill "$waiter" 2>/dev/null || true
    if [[ -n $server ]]; then
        terminate "$server" 10
        kill -KILL -- "-$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    remove_own_connection
    rm -rf "$run"
}

# Clients can't connect to 0.0.0.0 or ::.
case ${REACH:-$HOST} in
    0.0.0.0) reach=127.0.0.1 ;;
    ::) reach='[::1]' ;;
    *:*) reach="[${REACH:-$HOST}]" ;;
    *) reach=${REACH:-$HOST} ;;
esac
url=http://$reach:$PORT

install
[[ -z $install_only ]] || exit 0

"$VENV/bin/python" - "$HOST" "$PORT" <<'PYTHON' || fail "cannot listen on $HOST:$PORT; is another server running there? PORT=... takes another port"
import socket, sys

host, port = sys.argv[1], int(sys.argv[2])
try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()
except (OSError, OverflowError) as error:
    sys.exit(f"run_uvicorn.sh: {error}")
PYTHON

run=$(mktemp -d)
mkdir "$run/ready"
at_exit cleanup

# Every session needs a file descriptor.
ulimit -n "$(ulimit -Hn)"
[[ -d $APP_DIR ]] || fail "APP_DIR=$APP_DIR is no folder"
cd "$APP_DIR"
export MAX_CONCURRENT_ENVS PORT READY_DIR=$run/ready
setsid "$VENV/bin/python" -m uvicorn "$APP" \
    --host "$HOST" --port "$PORT" --workers "$WORKERS" --log-level "$LOG_LEVEL" "${uvicorn_flags[@]}" \
    </dev/null >"$run/log" 2>&1 &
server=$!
cd "$OLDPWD"

# In the background, because a trap does not run while a foreground command does.
"$VENV/bin/python" - "$url" "$WORKERS" "$START_SECONDS_MAX" "$server" "$run/ready" <<'PYTHON' &
import os, sys, time, urllib.request

url, workers, seconds_max, server, ready_dir = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
deadline = time.monotonic() + seconds_max
while time.monotonic() < deadline:
    try:
        os.kill(server, 0)
    except ProcessLookupError:
        sys.exit(3)
    try:
        if len(os.listdir(ready_dir)) >= workers:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as reply:
                sys.exit(0 if reply.status == 200 else 4)
    except OSError:
        pass
    time.sleep(0.1)
sys.exit(4)
PYTHON
waiter=$!
started=0
wait "$waiter" || started=$?
waiter=
case $started in
    0) ;;
    3) fail_with_log "$run/log" "the server ended while it started" ;;
    *) fail_with_log "$run/log" "the server did not answer $url/health with all $WORKERS workers within $START_SECONDS_MAX s" ;;
esac

default_command="WORKERS=$WORKERS HOST=$HOST PORT=$PORT MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS ./deploy/local/run_uvicorn.sh"
write_own_connection "urls[]=$url" "workers=$WORKERS" "max_concurrent_envs=$MAX_CONCURRENT_ENVS" nodes=1 \
    "cpus_per_node=$(nproc)" "backends[]=$(hostname)" "start_command=${START_COMMAND:-$default_command}"
printf 'serving %s with %s workers of %s sessions; connection file: %s\n' \
    "$url" "$WORKERS" "$MAX_CONCURRENT_ENVS" "$CONNECTION_FILE"

ended=0
wait "$server" || ended=$?
fail_with_log "$run/log" "the server ended by itself with status $ended"
