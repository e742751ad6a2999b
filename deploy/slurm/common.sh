# shellcheck shell=bash
# Functions that the scripts in this folder share, beside those of deploy/common.sh. Sourced, most of them inside a job.

slurm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/common.sh
source "$slurm_dir/../common.sh"

say() { printf '%s: %s\n' "$script_name" "$*"; }

inside_a_job() {
    [[ -n ${SLURM_JOB_ID:-} && -n ${SLURMD_NODENAME:-} ]] ||
        usage_fault "this is a batch script: submit it with sbatch ($1)"
    # If the job was submitted from inside another job, that job's settings are in the environment, and srun would use them.
    # Each step here gets what it needs by flags.
    unset SLURM_CPU_BIND SLURM_CPU_BIND_TYPE SLURM_CPU_BIND_LIST SLURM_CPU_BIND_VERBOSE SLURM_DISTRIBUTION SLURM_HINT SLURM_EXACT \
        SLURM_EXCLUSIVE SLURM_THREADS_PER_CORE SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_NTASKS SLURM_NPROCS \
        SLURM_NTASKS_PER_NODE SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE
    # Steps need this script's variables, whatever --export the job was submitted with.
    export SLURM_EXPORT_ENV=ALL
}

# The path of one of Muster's programs: from MUSTER_BIN, from target/release, or from PATH.
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

# A port of this job, by its index from 0; a job has PORTS_PER_JOB of them. They lie below the ephemeral ports, so no outgoing
# connection takes them first. Jobs whose numbers differ by 500 share them.
PORTS_PER_JOB=20
job_port() { printf '%s' $((20000 + SLURM_JOB_ID % 500 * PORTS_PER_JOB + $1)); }

# The smallest number of processors in a list of nodes such as "48(x2),96".
cpus_least() {
    tr ',' '\n' <<<"$1" | sed 's/(.*//' | sort -n | head -n 1
}

# The job's state as SLURM reports it; GONE if SLURM no longer knows the job; nothing if SLURM does not answer. The latter says
# nothing about the job.
job_state() { # JOB
    local said
    if said=$(timeout 60 squeue --noheader --jobs="$1" --states=all --format=%T 2>&1); then
        said=${said%%$'\n'*}
        printf '%s' "${said:-GONE}"
    elif [[ $said == *'Invalid job id'* ]]; then
        printf GONE
    fi
}

# Whether the job has ended for good.
job_ended() { # JOB
    case $(job_state "$1") in
        BOOT_FAIL | CANCELLED | COMPLETED | DEADLINE | FAILED | GONE | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | REVOKED | TIMEOUT) ;;
        *) return 1 ;;
    esac
}

# Seconds between two queries while waiting since SINCE (a value of $SECONDS). The interval grows to spare the controller.
patience() { # SINCE
    if ((SECONDS - $1 < 60)); then printf 2; else printf 15; fi
}

# The job that wrote a connection file, by its first line; nothing if no job did.
job_of() { # FILE
    # The file may be missing.
    { head -n 1 "$1" 2>/dev/null || true; } | sed -nE 's/^# job ([0-9]+)$/\1/p'
}

# Sleeps until the time is over or a signal arrives. A trap runs as soon as `wait` is interrupted.
pause() { # SECONDS
    sleep "$1" &
    wait $! || kill $! 2>/dev/null || true
}

# Cancels a job, with retries: if the controller does not answer for a moment, the job must not stay.
cancel_job() { # JOB
    for ((tries = 0; tries < 12; tries++)); do
        # scancel fails if the job has ended.
        timeout 30 scancel "$1" 2>/dev/null && return 0
        job_ended "$1" && return 0
        sleep 5
    done
    say "job $1 could not be cancelled, SLURM does not answer: scancel $1"
}

# Whether http://HOST:PORT/health answers 200. It uses bash only, because compute nodes may have neither curl nor Python.
healthy() { # HOST PORT
    # shellcheck disable=SC2016 # the inner bash expands it
    timeout 10 bash -c '
        exec 3<>"/dev/tcp/$1/$2" || exit 1
        printf "GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$1" >&3
        read -r _ status _ <&3 && [[ $status == 200 ]]
    ' healthy "$1" "$2" 2>/dev/null
}

# Waits until the server is healthy (0), PID has ended (2), or the time is over (1).
wait_until_healthy() { # HOST PORT PID DEADLINE (of $SECONDS)
    until healthy "$1" "$2"; do
        kill -0 "$3" 2>/dev/null || return 2
        ((SECONDS < $4)) || return 1
        pause 0.5
    done
}

# Sends SIGTERM to the step of that name, and SIGKILL after some seconds if it still runs. A SIGTERM to `srun` itself would kill
# its tasks at once.
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
        # srun would wait for a lost node.
        kill -KILL "$2" 2>/dev/null || true
    fi
    wait "$2" 2>/dev/null || true
}

# Each component of a heterogeneous job has its own job number.
steps_named() {
    local group jobs=$SLURM_JOB_ID
    for group in ${!SLURM_JOB_ID_HET_GROUP_@}; do jobs+=",${!group}"; done
    squeue --noheader --steps --jobs="$jobs" --format='%i %j' 2>/dev/null | sed -nE "s/^([^ ]+) $1\$/\1/p"
}
