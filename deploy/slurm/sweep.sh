# shellcheck shell=bash
# shellcheck disable=SC2154 # common.sh sets slurm_dir
# Starts a coordinator on this node and agents on the nodes of a job. Sourced; see sweep.sbatch for the settings.

coordinator=
agents=

# Runs coordinator and agents on the nodes of SWEEP_NODELIST; its status is the coordinator's exit code. SWEEP_GROUP is srun's
# --het-group in a heterogeneous job.
sweep() { # coordinator's arguments
    local nodes per_node tasks cpus flags identity=() connection=() code=0 alone='' server_gone='' server_job=''
    AGENTS_PER_NODE=${AGENTS_PER_NODE:-1}
    COORDINATOR_PORT=${COORDINATOR_PORT:-$(job_port 1)}
    CONNECTION_SECONDS_MAX=${CONNECTION_SECONDS_MAX:-600}
    # A coordinator without agents is stopped this many seconds after the last agent has ended.
    AGENTLESS_SECONDS_MAX=${AGENTLESS_SECONDS_MAX:-30}
    whole_number AGENTS_PER_NODE COORDINATOR_PORT CONNECTION_SECONDS_MAX AGENTLESS_SECONDS_MAX
    mapfile -t nodes < <(scontrol show hostnames "$SWEEP_NODELIST")
    ((${#nodes[@]} > 0)) || fail "scontrol does not say which nodes $SWEEP_NODELIST are"
    per_node=$AGENTS_PER_NODE
    tasks=$((${#nodes[@]} * per_node))
    cpus=$(($(cpus_least "$SWEEP_CPUS") / per_node))
    ((cpus > 0)) || fail "AGENTS_PER_NODE=$per_node is more than the $(cpus_least "$SWEEP_CPUS") processors of a node"
    [[ -z ${IDENTITY:-} ]] || identity=(--identity "$IDENTITY")
    AGENTS_OUTPUT=${AGENTS_OUTPUT:-$PWD/muster-sweep-$SLURM_JOB_ID-agents.out}
    COORDINATOR=$(program coordinator) || exit 1
    AGENT=$(program agent) || exit 1
    flags=(${SWEEP_GROUP:+"--het-group=$SWEEP_GROUP"} --overlap --nodes="${#nodes[@]}" --ntasks="$tasks"
        --ntasks-per-node="$per_node" --cpus-per-task="$cpus")
    export SWEEP_HEAD=$SLURMD_NODENAME
    same_version "${#nodes[@]}"
    if [[ -n ${CONNECTION_FILE:-} ]]; then
        await_connection
        server_job=$(job_of "$CONNECTION_FILE")
        connection=(--set "server.connection=$CONNECTION_FILE")
        # A resumed run uses its original urls.
        [[ " $* " != *' --resume '* ]] || connection=()
    fi

    # This script starts the agents, so the coordinator need not print how to start them.
    MUSTER_AGENTS_COME=1 "$COORDINATOR" run "$@" --agents "$tasks" --listen "0.0.0.0:$COORDINATOR_PORT" "${identity[@]}" "${connection[@]}" &
    coordinator=$!
    # The flags keep the other agents running when one agent or its node is lost; the coordinator decides what a loss means. The
    # agents' output goes to its own file, because the output of hundreds of agents would bury the table.
    # shellcheck disable=SC2086 # AGENT_FLAGS holds several flags
    srun "${flags[@]}" --job-name=muster-agents --no-kill --kill-on-bad-exit=0 --wait=0 --label --output="$AGENTS_OUTPUT" \
        "$slurm_dir/agent_node.sh" "$AGENT" --coordinator "$SLURMD_NODENAME:$COORDINATOR_PORT" "${identity[@]}" ${AGENT_FLAGS:-} &
    agents=$!

    server_asked=$SECONDS
    while kill -0 "$coordinator" 2>/dev/null; do
        pause 0.5
        kill -0 "$coordinator" 2>/dev/null || break
        if [[ -z $alone ]] && ! kill -0 "$agents" 2>/dev/null; then
            alone=$((SECONDS + AGENTLESS_SECONDS_MAX))
            say "all agents have ended; without others the coordinator is stopped in $AGENTLESS_SECONDS_MAX s"
        fi
        [[ -z $alone ]] || ((SECONDS < alone)) || kill -TERM "$coordinator" 2>/dev/null || true
        # A stopped server refuses everything, which would look like a measurement.
        if [[ -n $server_gone ]] || server_is_there; then continue; fi
        server_gone=1
        say "the server's job ${server_job:-} has ended: the sweep is stopped, for what comes now says nothing of it"
        kill -TERM "$coordinator" 2>/dev/null || true
    done
    wait "$coordinator" || code=$?
    coordinator=
    # Dismissed agents end by themselves, except on a lost node.
    for ((n = 0; n < 10; n++)); do
        kill -0 "$agents" 2>/dev/null || break
        pause 0.5
    done
    end_step muster-agents "$agents" 5
    agents=
    case $code in
        0 | 130) ;;
        # The coordinator's message says what is missing; the agents' messages say why.
        *) grep -v ' INFO ' "$AGENTS_OUTPUT" | tail -n 12 || true ;;
    esac
    say "the coordinator's exit code is $code; the agents' output is in $AGENTS_OUTPUT"
    return "$code"
}

# Whether the connection file is still the one that the sweep began with, and (checked every 30 s) whether its job still runs. A
# node that fails does not remove its file.
server_is_there() {
    [[ -n $server_job ]] || return 0
    [[ $(job_of "$CONNECTION_FILE") == "$server_job" ]] || return 1
    if ((SECONDS - server_asked >= 30)); then
        server_asked=$SECONDS
        ! job_ended "$server_job" || return 1
    fi
}

# Handles a signal to the batch script: the coordinator cuts the batch, keeps finished batches and prints how to continue.
sweep_signalled() {
    if [[ -z $coordinator ]]; then
        say "stopped before the coordinator was started"
        exit 143
    fi
    kill -TERM "$coordinator" 2>/dev/null || true
}

# Checks that every node has the agent in the coordinator's version. This takes a second and saves minutes of waiting.
same_version() { # NODES
    local ours theirs
    ours=$("$COORDINATOR" --version)
    theirs=$(srun ${SWEEP_GROUP:+"--het-group=$SWEEP_GROUP"} --overlap --nodes="$1" --ntasks="$1" --ntasks-per-node=1 \
        --job-name=muster-version "$AGENT" --version | sort | uniq -c) ||
        fail "$AGENT can't be run on every node; put it where all see it, or MUSTER_BIN=FOLDER"
    [[ $(sed -E 's/^ *[0-9]+ agent //' <<<"$theirs") == "${ours#coordinator }" ]] ||
        fail "the nodes have other versions of agent ($theirs) than the coordinator's (${ours#coordinator })"
}

# Waits for the connection file. SERVER_JOB, if it is set, is the job that will write it. A file whose job has ended does not count.
await_connection() {
    local begun=$SECONDS asked=$SECONDS told=''
    [[ $CONNECTION_FILE == /* ]] || CONNECTION_FILE=$SLURM_SUBMIT_DIR/$CONNECTION_FILE
    until [[ -e $CONNECTION_FILE ]] && ! stale "$CONNECTION_FILE"; do
        [[ -n $told ]] || say "waiting for $CONNECTION_FILE"
        told=1
        ((SECONDS - begun < CONNECTION_SECONDS_MAX)) ||
            fail "no $CONNECTION_FILE of a job that runs within CONNECTION_SECONDS_MAX=$CONNECTION_SECONDS_MAX s"
        pause 1
        ((SECONDS - asked >= $(patience "$begun"))) || continue
        asked=$SECONDS
        if [[ -n ${SERVER_JOB:-} ]] && job_ended "$SERVER_JOB"; then
            fail "the server's job $SERVER_JOB ended before it wrote $CONNECTION_FILE; its output says why"
        fi
    done
}

stale() { # FILE
    local of
    of=$(job_of "$1")
    [[ -n $of ]] && job_ended "$of"
}
