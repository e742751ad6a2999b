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

# What is wrong with how it was called has the exit code that the programs have for it.
usage_fault() {
    printf '%s: %s\n' "$script_name" "$*" >&2
    exit 2
}

inside_a_job() {
    [[ -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
        usage_fault "this is a batch script: submit it with sbatch ($1)"
    # Who submits from inside another job hands that job's wishes on, and srun would take them for this one's. Every step
    # here is given what it needs by flags.
    unset SLURM_CPU_BIND SLURM_CPU_BIND_TYPE SLURM_CPU_BIND_LIST SLURM_CPU_BIND_VERBOSE SLURM_DISTRIBUTION SLURM_HINT SLURM_EXACT \
        SLURM_EXCLUSIVE SLURM_THREADS_PER_CORE SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_NTASKS SLURM_NPROCS \
        SLURM_NTASKS_PER_NODE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
    # Steps need this script's variables, whatever the job was submitted with.
    export SLURM_EXPORT_ENV=ALL
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

# Ports of this job, below the ephemeral ones, so that no outgoing connection takes them first: PORTS_PER_JOB of them, counted from
# 0. Jobs whose numbers differ by 500 share them.
PORTS_PER_JOB=20
job_port() { printf '%s' $((20000 + SLURM_JOB_ID % 500 * PORTS_PER_JOB + $1)); }

# Processors that every node of a list such as "48(x2),96" has.
cpus_least() {
    tr ',' '\n' <<<"$1" | sed 's/(.*//' | sort -n | head -n 1
}

# SLURM's word for it; GONE if it has forgotten it; nothing if it can't be asked just now, which says nothing of the job.
job_state() { # JOB
    local said
    if said=$(timeout 60 squeue --noheader --jobs="$1" --states=all --format=%T 2>&1); then
        said=${said%%$'\n'*}
        printf '%s' "${said:-GONE}"
    elif [[ $said == *'Invalid job id'* ]]; then
        printf GONE
    fi
}

# Whether SLURM will not run it any more.
job_ended() { # JOB
    case $(job_state "$1") in
        BOOT_FAIL | CANCELLED | COMPLETED | DEADLINE | FAILED | GONE | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | REVOKED | TIMEOUT) ;;
        *) return 1 ;;
    esac
}

# Seconds between two questions about something that has been waited for since SINCE (of $SECONDS): the controller has others to
# answer.
patience() { # SINCE
    if ((SECONDS - $1 < 60)); then printf 2; else printf 15; fi
}

# What a connection file says of itself: the job that wrote it, or nothing.
job_of() { # FILE
    # It may not be there.
    { head -n 1 "$1" 2>/dev/null || true; } | sed -nE 's/^# job ([0-9]+)$/\1/p'
}

# Text as it stands between the quotes of a TOML string.
toml_text() {
    local text=${1//\\/\\\\}
    printf '%s' "${text//\"/\\\"}"
}

# Until that time is over, or a signal comes: a trap runs as soon as `wait` is interrupted.
pause() { # SECONDS
    sleep "$1" &
    wait $! || kill $! 2>/dev/null || true
}

# Takes the job back, and insists: a controller that does not answer for a moment must not leave it running.
cancel_job() { # JOB
    for ((tries = 0; tries < 12; tries++)); do
        # Of a job that is over it says so, and fails.
        timeout 30 scancel "$1" 2>/dev/null && return 0
        job_ended "$1" && return 0
        sleep 5
    done
    say "job $1 could not be cancelled, SLURM does not answer: scancel $1"
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
        pause 0.5
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
    for group in ${!SLURM_JOB_ID_HET_GROUP_@}; do jobs+=",${!group}"; done
    squeue --noheader --steps --jobs="$jobs" --format='%i %j' 2>/dev/null | sed -nE "s/^([^ ]+) $1\$/\1/p"
}
