# shellcheck shell=bash
# What the scripts in this folder share. Sourced, inside a job.

slurm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$slurm_dir/../.." && pwd)
script_name=${script_name:-$(basename "$0")}

say() { printf '%s: %s\n' "$script_name" "$*"; }

fail() {
    printf '%s: %s\n' "$script_name" "$*" >&2
    exit 1
}

inside_a_job() {
    [[ -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
        fail "this is a batch script: submit it with sbatch ($1)"
    # Of the login node's shell; here it would be taken for this job's.
    unset SLURM_CPU_BIND SLURM_CPU_BIND_TYPE SLURM_CPU_BIND_LIST
}

whole_number() { # NAME...: variables that must be whole numbers
    local name
    for name; do
        [[ ${!name} =~ ^[1-9][0-9]{0,6}$ ]] || fail "$name must be a positive whole number, not '${!name}'"
    done
}

# Our own programs: MUSTER_BIN, what was built here, or whatever PATH has.
program() { # NAME
    local found
    for found in ${MUSTER_BIN:+"$MUSTER_BIN/$1"} "$repository/target/release/$1"; do
        if [[ -x $found ]]; then
            printf '%s' "$found"
            return
        fi
        [[ -z ${MUSTER_BIN:-} ]] || fail "MUSTER_BIN=$MUSTER_BIN has no $1"
    done
    command -v "$1" || fail "no $1 in $repository/target/release or PATH: cargo build --release, or MUSTER_BIN=FOLDER"
}

# Ports of this job, below the ephemeral ones, so that no outgoing connection takes them first: ten a job, counted from 0.
job_port() { printf '%s' $((20000 + SLURM_JOB_ID % 1000 * 10 + $1)); }

# Processors that every node of a list such as "48(x2),96" has.
cpus_least() {
    tr ',' '\n' <<<"$1" | sed 's/(.*//' | sort -n | head -n 1
}

job_ended() { # JOB: whether SLURM will not run it any more
    local state
    state=$(squeue --noheader --jobs="$1" --states=all --format=%T 2>/dev/null | head -n 1) || true
    case $state in
        PENDING | CONFIGURING | RUNNING | SUSPENDED | COMPLETING | '') [[ -z $state ]] ;;
        *) return 0 ;;
    esac
}

# Whether http://HOST:PORT/health answers 200. Compute nodes may have neither curl nor Python.
healthy() { # HOST PORT
    # shellcheck disable=SC2016 # it expands there
    timeout 10 bash -c '
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf "GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$1" >&3
        read -r _ status _ <&3 && [[ $status == 200 ]]
    ' healthy "$1" "$2" 2>/dev/null
}

# Until it is healthy, PID has ended, or the time is over.
wait_until_healthy() { # HOST PORT PID DEADLINE (of $SECONDS)
    until healthy "$1" "$2"; do
        kill -0 "$3" 2>/dev/null || return 2
        ((SECONDS < $4)) || return 1
        sleep 0.5
    done
}

# SIGTERM to a step, by name, and SIGKILL to what is still there after a while. SIGTERM to `srun` itself would kill its tasks
# at once.
end_step() { # NAME PID_OF_SRUN SECONDS
    local step deadline=$((SECONDS + $3))
    kill -0 "$2" 2>/dev/null || return 0
    for step in $(steps_named "$1"); do
        scancel --signal=TERM "$step" 2>/dev/null || true
    done
    while kill -0 "$2" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.2; done
    if kill -0 "$2" 2>/dev/null; then
        for step in $(steps_named "$1"); do
            scancel --signal=KILL "$step" 2>/dev/null || true
        done
        # It would wait for a node that is gone.
        kill -KILL "$2" 2>/dev/null || true
    fi
    wait "$2" 2>/dev/null || true
}

# Each component of a heterogeneous job has a number of its own.
steps_named() {
    local group jobs=$SLURM_JOB_ID
    for group in ${!SLURM_JOB_ID_HET_GROUP_@}; do jobs+="|${!group}"; done
    squeue --noheader --steps --format='%i %j' 2>/dev/null | sed -nE "s/^(($jobs)(\\+[0-9]+)?\\.[0-9]+) $1\$/\\1/p"
}
