# shellcheck shell=bash
# shellcheck disable=SC2154 # common.sh sets deploy, repository and slurm_dir
# Starts servers on the nodes of a job, and proxies in front of them if wanted. Sourced; see serve_multi_batch.sh for the settings.

server_steps=()
run_dir=

serve_settings() {
    SERVER=${SERVER:-openenv}
    BALANCER=${BALANCER:-haproxy}
    SESSIONS=${SESSIONS:-16384}
    MAX_CONCURRENT_ENVS=${MAX_CONCURRENT_ENVS:-$SESSIONS}
    WORKERS=${WORKERS:-$(cpus_least "$SERVER_CPUS")}
    BACKEND_PORT=${BACKEND_PORT:-$(job_port 0)}
    proxies_per_node_max=$((PORTS_PER_JOB - 2))
    [[ -z ${PORT:-} ]] || proxies_per_node_max=1000
    PORT=${PORT:-$(job_port 2)}
    # Where the plans expect it; or, if that folder is not writable, where the job was submitted.
    if [[ -z ${CONNECTION_FILE:-} ]]; then
        CONNECTION_FILE=$slurm_dir/connection.toml
        [[ -w $slurm_dir ]] || CONNECTION_FILE=$SLURM_SUBMIT_DIR/connection.toml
    fi
    START_SECONDS_MAX=${START_SECONDS_MAX:-300}
    whole_number SESSIONS MAX_CONCURRENT_ENVS WORKERS BACKEND_PORT PORT START_SECONDS_MAX
    case $SERVER in
        openenv | refserver) ;;
        command) [[ -n ${SERVE_COMMAND:-} ]] || fail "SERVER=command needs SERVE_COMMAND, which is run with bash -c on every node" ;;
        *) fail "SERVER must be openenv, refserver or command, not '$SERVER'" ;;
    esac
    case $BALANCER in
        none | haproxy | envoy) ;;
        *) fail "BALANCER must be haproxy, envoy or none, not '$BALANCER'" ;;
    esac
    [[ $CONNECTION_FILE == /* ]] || CONNECTION_FILE=$SLURM_SUBMIT_DIR/$CONNECTION_FILE
    [[ -d $(dirname "$CONNECTION_FILE") && -w $(dirname "$CONNECTION_FILE") ]] ||
        fail "the folder of CONNECTION_FILE=$CONNECTION_FILE does not exist, or can't be written to; CONNECTION_FILE=FILE names another"
    local other
    other=$(job_of "$CONNECTION_FILE")
    if [[ -n $other && $other != "$SLURM_JOB_ID" ]] && ! job_ended "$other"; then
        fail "$CONNECTION_FILE is of job $other, which still runs; CONNECTION_FILE=FILE names another"
    fi
    PROXY_NODES=${PROXY_NODES:-}
    [[ -n $START_COMMAND ]] || fail "START_COMMAND is empty"
}

# Starts everything on the nodes of SERVER_NODELIST and returns once all of it answers. SERVER_GROUP is srun's --het-group in a
# heterogeneous job.
serve_start() {
    local nodes node deadline flags proxies_per_node_max
    serve_settings
    mapfile -t nodes < <(scontrol show hostnames "$SERVER_NODELIST")
    ((${#nodes[@]} > 0)) || fail "scontrol does not say which nodes $SERVER_NODELIST are"
    deadline=$((SECONDS + START_SECONDS_MAX))
    # Beside the connection file, because every node can read that folder.
    local folder
    folder=$(dirname "$CONNECTION_FILE")/.serve-$SLURM_JOB_ID
    mkdir -m 700 "$folder" || fail "$folder can't be made, or is left of a job of that number: remove it, or CONNECTION_FILE=FILE elsewhere"
    run_dir=$folder
    # Report what is missing before anything is started.
    if [[ $BALANCER != none ]]; then
        COORDINATOR=$(program coordinator) || exit 1
        PROXY_PROGRAM=${PROXY_PROGRAM:-$(command -v "$BALANCER" || PATH=/usr/sbin:/sbin command -v "$BALANCER")} ||
            fail "$BALANCER is not installed; BALANCER=none does without, PROXY_PROGRAM=PATH names it"
    fi
    case $SERVER in
        # Install once here, and not on every node at the same time.
        openenv) "$repository/deploy/local/run_uvicorn.sh" --install ;;
        refserver) REFSERVER=$(program refserver) || exit 1 ;;
    esac
    export SERVER WORKERS MAX_CONCURRENT_ENVS BACKEND_PORT START_SECONDS_MAX RUN_DIR=$run_dir
    export REFSERVER=${REFSERVER:-} SERVE_COMMAND=${SERVE_COMMAND:-}

    say "starting $SERVER on ${#nodes[@]} node(s): ${nodes[*]}, $WORKERS worker(s) each"
    flags=(${SERVER_GROUP:+"--het-group=$SERVER_GROUP"} --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1)
    srun "${flags[@]}" --cpus-per-task="$(cpus_least "$SERVER_CPUS")" --job-name=muster-servers --kill-on-bad-exit=1 \
        "$slurm_dir/serve_node.sh" &
    server_steps+=("muster-servers:$!")
    for node in "${nodes[@]}"; do
        await "the server on $node" "$node" "$BACKEND_PORT" "${server_steps[0]##*:}" "$deadline"
        # The server answers as soon as one worker runs; the file exists once all of them do.
        until [[ $SERVER != openenv || -e $run_dir/$node.toml ]]; do
            kill -0 "${server_steps[0]##*:}" 2>/dev/null || fail "the server on $node ended while it started; its message is above"
            ((SECONDS < deadline)) ||
                fail "the server on $node had not all $WORKERS workers within START_SECONDS_MAX=$START_SECONDS_MAX s"
            pause 0.5
        done
    done
    if [[ $BALANCER == none ]]; then
        write_connection "${nodes[@]}"
    else
        balance "$deadline" "${nodes[@]}"
    fi
}

await() { # WHAT HOST PORT PID DEADLINE
    local how=0
    wait_until_healthy "$2" "$3" "$4" "$5" || how=$?
    case $how in
        0) ;;
        2) fail "$1 ended while it started; its message is above" ;;
        *) fail "$1 did not answer http://$2:$3/health within START_SECONDS_MAX=$START_SECONDS_MAX s" ;;
    esac
}

# Starts as many proxies as SESSIONS need on PROXY_NODES (by default the nodes of the servers).
balance() { # DEADLINE NODE...
    local deadline=$1 node url names step count least
    shift
    PROXY_NODES=${PROXY_NODES:-$*}
    # An entry may be NODE=ADDRESS,ADDRESS.
    mapfile -t names < <(tr ' ' '\n' <<<"$PROXY_NODES" | sed 's/=.*//' | sort -u)
    count=${#names[@]}
    step=(srun ${SERVER_GROUP:+"--het-group=$SERVER_GROUP"} --overlap --nodes="$count" --ntasks="$count" --ntasks-per-node=1
        --cpus-per-task="$(cpus_least "$SERVER_CPUS")" --nodelist="$(IFS=,; echo "${names[*]}")")
    # The limits on the proxies' nodes, not on this one.
    # shellcheck disable=SC2016 # it expands on the nodes
    least=$("${step[@]}" --job-name=muster-limits bash -c \
        'read -r first last </proc/sys/net/ipv4/ip_local_port_range; echo "$(ulimit -Hn) $((last - first + 1))"') ||
        fail "the proxies' nodes (${names[*]}) can't be asked for their limits; srun's message is above"
    least=$(awk '{ if ($1 == "unlimited") $1 = 1048576; if (NR == 1 || $1 < d) d = $1; if (NR == 1 || $2 < p) p = $2 } END { print d, p }' \
        <<<"$least")
    flags=(--descriptors "${least% *}" --ports "${least#* }")
    for node; do flags+=(--backend "$node:$BACKEND_PORT"); done
    for node in $PROXY_NODES; do flags+=(--node "$node"); done
    "$COORDINATOR" balancer "$BALANCER" --sessions "$SESSIONS" --port "$PORT" ${PROXY_THREADS:+--threads "$PROXY_THREADS"} \
        --out "$run_dir" "${flags[@]}" || fail "the proxies' nodes (${names[*]}) can't carry SESSIONS=$SESSIONS"
    count=$(cut -f 2 "$run_dir/proxies.tsv" | sort | uniq -c | sort -rn | awk 'NR == 1 { print $1 }')
    ((count <= proxies_per_node_max)) ||
        fail "$count proxies on a node need more ports than a job has ($proxies_per_node_max); PORT=FIRST gives others, and a higher limit of open files (ulimit -n) needs fewer proxies"
    export BALANCER PROXY_PROGRAM
    "${step[@]}" --job-name=muster-proxies --kill-on-bad-exit=1 "$slurm_dir/proxy_node.sh" &
    server_steps+=("muster-proxies:$!")
    while IFS=$'\t' read -r _ node url _; do
        url=${url#http://}
        await "the proxy $url on $node" "${url%:*}" "${url##*:}" "${server_steps[-1]##*:}" "$deadline"
    done <"$run_dir/proxies.tsv"
    write_connection "$@"
}

write_connection() { # NODE...
    local node urls=() backends=()
    for node; do
        urls+=("urls[]=http://$node:$BACKEND_PORT")
        backends+=("backends[]=$node")
    done
    # The file of `coordinator balancer` has the proxies' urls.
    [[ $BALANCER == none ]] || urls=(--append "$run_dir/connection.toml")
    # Atomic, because other scripts wait for the file.
    "$deploy/write_connection.sh" "$CONNECTION_FILE" --marker "job $SLURM_JOB_ID" "${urls[@]}" "workers=$WORKERS" \
        "max_concurrent_envs=$MAX_CONCURRENT_ENVS" "nodes=$#" "cpus_per_node=$(cpus_least "$SERVER_CPUS")" \
        "${backends[@]}" "start_command=$START_COMMAND"
    say "serving; connection file: $CONNECTION_FILE"
}

# Waits until a server or proxy ends, which is a failure.
serve_watch() {
    while serve_alive; do pause 0.5; done
    fail "a server or proxy ended by itself; its message is above"
}

serve_alive() {
    local step
    for step in "${server_steps[@]}"; do
        kill -0 "${step##*:}" 2>/dev/null || return 1
    done
}

serve_stop() {
    local step
    [[ -n $run_dir ]] || return 0
    # Remove the file first, so that a sweep that uses it does not take the following failures for measurements.
    if [[ $(job_of "$CONNECTION_FILE") == "$SLURM_JOB_ID" ]]; then rm -f "$CONNECTION_FILE"; fi
    for ((n = ${#server_steps[@]} - 1; n >= 0; n--)); do
        step=${server_steps[n]}
        end_step "${step%%:*}" "${step##*:}" 15
    done
    server_steps=()
    rm -rf "$run_dir"
}
