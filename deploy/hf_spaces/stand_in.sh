#!/usr/bin/env bash
# Stands in for a Hugging Face Space on this machine. See --help.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# shellcheck source=deploy/common.sh
source "$here/../common.sh"

usage() {
    cat <<'HELP'
Usage: stand_in.sh [--help]

Imitates a Space: starts HAProxy with TLS in front of the environment, stays in the foreground, and stops both on SIGTERM or
SIGINT. It accepts at most CONNECTIONS_MAX connections at a time and refuses all others immediately. Over HTTP, /reset and
/step answer 404; /ws and /health work. The certificate comes from an authority that is created for this start, whose key is
deleted right away. Once everything is up, the script writes a connection file and prints the command for the coordinator.
It removes connection file and certificate at exit.

Environment variables:
  SERVER               openenv (run_uvicorn.sh) or refserver              [openenv]
  WORKERS              worker processes of the server                     [2]
  MAX_CONCURRENT_ENVS  concurrent WebSocket sessions per worker           [256]
  CONNECTIONS_MAX      concurrent connections                             [200]
  HOST                 address to listen on                               [127.0.0.1]
  PORT                 port to listen on                                  [8443]
  SERVER_PORT          port of the server behind it, on the loopback      [PORT + 1]
  REFSERVER            command that starts refserver, words separated by
                       spaces                                             [target/release/refserver]
  VENV                 of run_uvicorn.sh                                  [its own]
  CONNECTION_FILE      file to write with the server's address            [deploy/hf_spaces/connection.toml]
  CA_FILE              file to write with the authority's certificate     [deploy/hf_spaces/ca.pem]
  START_SECONDS_MAX    how long it may take to start                      [180]
HELP
}

only_help "$@"

SERVER=${SERVER:-openenv}
WORKERS=${WORKERS:-2}
MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-256}
CONNECTIONS_MAX=${CONNECTIONS_MAX:-200}
HOST=${HOST:-127.0.0.1}
PORT=${PORT:-8443}
REFSERVER=${REFSERVER:-$repository/target/release/refserver}
CONNECTION_FILE=${CONNECTION_FILE:-$here/connection.toml}
CA_FILE=${CA_FILE:-$here/ca.pem}
START_SECONDS_MAX=${START_SECONDS_MAX:-180}

whole_number WORKERS MAX_CONCURRENT_ENVS CONNECTIONS_MAX PORT START_SECONDS_MAX
SERVER_PORT=${SERVER_PORT:-$((PORT + 1))}
[[ $SERVER_PORT =~ ^[1-9][0-9]{0,4}$ ]] || fail "SERVER_PORT must be a positive whole number, not '$SERVER_PORT'"
# Each connection takes two descriptors of the proxy. A Space accepts far fewer connections.
((CONNECTIONS_MAX <= 4000)) || fail "CONNECTIONS_MAX must be 4000 at most, not $CONNECTIONS_MAX"
[[ $HOST =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] || fail "HOST must be an IPv4 address of this machine, not '$HOST'"
[[ $SERVER == openenv || $SERVER == refserver ]] || fail "SERVER must be openenv or refserver, not '$SERVER'"
folder_exists CONNECTION_FILE CA_FILE
for name in CONNECTION_FILE CA_FILE; do
    # An absolute path, because the printed command may be run in another folder.
    declare "$name=$(cd "$(dirname "${!name}")" && pwd)/$(basename "${!name}")"
done
need haproxy haproxy
need openssl openssl
read -ra refserver <<<"$REFSERVER"
if [[ $SERVER == refserver ]]; then
    command -v "${refserver[0]-}" >/dev/null ||
        fail "REFSERVER=$REFSERVER is no program; cargo build --release -p refserver makes target/release/refserver"
fi

server=
proxy=
run=$(mktemp -d)

# Ends a process with SIGTERM, or with SIGKILL if that takes too long.
# shellcheck disable=SC2317 # a trap calls it
end() {
    [[ -n $1 ]] || return 0
    # Longer than the ten seconds that run_uvicorn.sh may need.
    terminate "$1" 15
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

# However this script ends, it leaves no process.
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    end "$child"
    end "$proxy"
    end "$server"
    remove_own_connection
    # Another stand-in may have written the same file in the meantime.
    if cmp -s "$run/ca.pem" "$CA_FILE"; then
        rm -f "$CA_FILE"
    fi
    rm -rf "$run"
}
at_exit cleanup

die_with_log() {
    note "$1"
    tail -n 20 "$run/log" >&2 || true
    exit 1
}

# Creates an authority and a certificate for HOST, and deletes the authority's key, so that nobody can issue another certificate.
certificates() {
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    printf 'subjectAltName=IP:%s\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:FALSE\n' "$HOST" >"$run/leaf.ext"
    # The system's own configuration could add unwanted or duplicate extensions.
    printf '[req]\ndistinguished_name = name\n[name]\n' >"$run/openssl.cnf"
    openssl req -x509 -config "$run/openssl.cnf" "${key[@]}" -days 2 -subj "/CN=stand_in.sh" \
        -keyout "$run/ca.key" -out "$run/ca.pem" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign &&
        openssl req -new -config "$run/openssl.cnf" "${key[@]}" -subj "/CN=$HOST" \
            -keyout "$run/leaf.key" -out "$run/leaf.csr" &&
        openssl x509 -req -in "$run/leaf.csr" -CA "$run/ca.pem" -CAkey "$run/ca.key" -CAcreateserial -days 2 \
            -extfile "$run/leaf.ext" -out "$run/leaf.pem" &&
        rm "$run/ca.key" &&
        cat "$run/leaf.pem" "$run/leaf.key" >"$run/haproxy.pem"
}
umask 077
certificates >"$run/log" 2>&1 || die_with_log "openssl could not make the certificates"

# Rejected connections get no TLS handshake, so clients notice the refusal immediately, as on a Space. maxconn is far above the
# limit, so that no connection queues: a queued connection would look slow, not refused.
cat >"$run/haproxy.cfg" <<CONFIG
global
    maxconn $((CONNECTIONS_MAX + 4000))
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h

frontend space
    bind $HOST:$PORT ssl crt $run/haproxy.pem alpn http/1.1 backlog 4096
    tcp-request connection reject if { fe_conn gt $CONNECTIONS_MAX }
    http-request return status 404 content-type text/plain string "not found" if { path /reset /step }
    default_backend environment

backend environment
    server environment 127.0.0.1:$SERVER_PORT
CONFIG

# Every session needs a file descriptor.
ulimit -n "$(ulimit -Hn)"
if [[ $SERVER == openenv ]]; then
    # The umask above is for the certificates and not for the server's virtual environment.
    (umask 022 && WORKERS=$WORKERS PORT=$SERVER_PORT HOST=127.0.0.1 MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS \
        START_SECONDS_MAX=$START_SECONDS_MAX CONNECTION_FILE=$run/server.toml \
        exec "$here/../local/run_uvicorn.sh") >>"$run/log" 2>&1 &
else
    "${refserver[@]}" --listen "127.0.0.1:$SERVER_PORT" --workers "$WORKERS" \
        --max-concurrent-envs "$MAX_CONCURRENT_ENVS" >>"$run/log" 2>&1 &
fi
server=$!
haproxy -db -f "$run/haproxy.cfg" >>"$run/log" 2>&1 &
proxy=$!

# shellcheck disable=SC2317 # wait_for_both calls it
serves() {
    if [[ $SERVER == openenv ]]; then
        # The file exists once all workers serve.
        [[ -e $run/server.toml ]]
    else
        "${refserver[@]}" health --listen "127.0.0.1:$SERVER_PORT" >/dev/null 2>&1
    fi
}

# Whether the server answers through the proxy, with a valid certificate.
# shellcheck disable=SC2317 # wait_for_both calls it
proxied() {
    printf 'GET /health HTTP/1.0\r\n\r\n' |
        timeout 5 openssl s_client -quiet -connect "$HOST:$PORT" -CAfile "$run/ca.pem" -verify_return_error 2>/dev/null |
        grep -q healthy
}

# shellcheck disable=SC2317 # attend calls it
wait_for_both() {
    # 300 s more, because the first start also installs the Python packages.
    local end=$((SECONDS + START_SECONDS_MAX + 300))
    while ((SECONDS < end)); do
        kill -0 "$server" 2>/dev/null || return 3
        kill -0 "$proxy" 2>/dev/null || return 5
        if serves && proxied; then
            return 0
        fi
        sleep 0.1
    done
    return 4
}
started=0
attend wait_for_both || started=$?
case $started in
    0) ;;
    3) die_with_log "the server ended while it started; is another one on port $SERVER_PORT? SERVER_PORT=... takes another" ;;
    5) die_with_log "HAProxy ended while it started; is another server on $HOST:$PORT? PORT=... takes another" ;;
    *) die_with_log "not everything was up within $START_SECONDS_MAX s" ;;
esac

install -m 644 "$run/ca.pem" "$CA_FILE"
write_own_connection "urls[]=https://$HOST:$PORT" "workers=$WORKERS" "max_concurrent_envs=$MAX_CONCURRENT_ENVS" nodes=1 \
    "cpus_per_node=$(nproc)" "backends[]=$(hostname)" \
    "start_command=SERVER=$SERVER WORKERS=$WORKERS MAX_CONCURRENT_ENVS=$MAX_CONCURRENT_ENVS CONNECTIONS_MAX=$CONNECTIONS_MAX ./deploy/hf_spaces/stand_in.sh"

command=(coordinator run experiments/plans/hf-spaces.toml --set "target.ca_file=$CA_FILE")
[[ $CONNECTION_FILE == "$here/connection.toml" ]] || command+=(--set "server.connection=$CONNECTION_FILE")
printf 'serving https://%s:%s with %s of %s workers, %s connections at most; connection file: %s\nrun: %s\n' \
    "$HOST" "$PORT" "$SERVER" "$WORKERS" "$CONNECTIONS_MAX" "$CONNECTION_FILE" "${command[*]}"

ended=0
wait -n "$server" "$proxy" || ended=$?
die_with_log "the server or HAProxy ended by itself with status $ended"
