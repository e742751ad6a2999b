#!/usr/bin/env bash
# Submits servers and a sweep as two jobs, and ends both. Run it where you would run sbatch; see --help.
set -euo pipefail
script_name=serve_and_sweep.sh
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'HELP'
Usage: serve_and_sweep.sh [OPTIONS] PLAN [flags of coordinator run]

Submits serve_multi_batch.sh (serve_single.sh for one node), and sweep.sbatch, which depends on it and waits for its connection
file. It stays until the sweep is over, shows its output, and then ends the server's job in every case. Its exit code is the
coordinator's. If it is interrupted, it cancels both jobs.

Options:
  --server-nodes N      nodes with servers                              [2]
  --agent-nodes N       nodes with agents; none of them has a server    [4]
  --partition P, --account A, --time T, --qos Q, --constraint C
                        of both jobs, as of sbatch
  --server-flags FLAGS  further flags of sbatch for the server's job. That job starts first, so if you limit its time, give it
                        more than the sweep: "--time 3:00:00". When it ends, the sweep is stopped
  --sweep-flags FLAGS   further flags of sbatch for the sweep

Settings of serve_multi_batch.sh and sweep.sbatch, such as SERVER, WORKERS or AGENTS_PER_NODE, are environment variables. Run it in a
folder that all nodes see: outputs, results and the connection file go there.
HELP
}

server_nodes=2 agent_nodes=4
both=() server_flags=() sweep_flags=()
while (($# > 0)); do
    case $1 in
        -h | --help) usage && exit 0 ;;
        --server-nodes | --agent-nodes | --partition | --account | --time | --qos | --constraint | --server-flags | --sweep-flags)
            (($# > 1)) || usage_fault "$1 needs a value; see --help"
            case $1 in
                --server-nodes) server_nodes=$2 ;;
                --agent-nodes) agent_nodes=$2 ;;
                --server-flags) read -ra server_flags <<<"$2" ;;
                --sweep-flags) read -ra sweep_flags <<<"$2" ;;
                *) both+=("$1=$2") ;;
            esac
            shift 2
            ;;
        -*) usage_fault "unknown option $1; see --help" ;;
        *) break ;;
    esac
done
(($# > 0)) || usage_fault "no plan; see --help"
plan=$1
[[ -e $plan ]] || usage_fault "$plan: no such plan"
whole_number server_nodes agent_nodes
command -v sbatch >/dev/null || fail "no sbatch here: run this on a login node of the cluster"

# Inside another job, that job's settings are in the environment and would apply to these two.
for name in ${!SLURM_@}; do
    case $name in
        SLURM_CONF | SLURM_CLUSTERS) ;;
        *) unset "$name" ;;
    esac
done

server_job='' sweep_job='' follower=''
work=$PWD/.muster-jobs-$(uname -n)-$$
mkdir -m 700 "$work" || fail "$work can't be made; run this in a folder that all nodes see and you can write to"
# shellcheck disable=SC2317 # a trap calls it
cleanup() {
    trap '' TERM INT HUP
    [[ -z $follower ]] || kill "$follower" 2>/dev/null || true
    for job in $sweep_job $server_job; do cancel_job "$job"; done
    # Wait until the servers have shut down, so that nothing is left.
    local begun=$SECONDS
    until [[ -z $server_job ]] || job_ended "$server_job" || ((SECONDS - begun > 60)); do sleep 1; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 143' TERM HUP
trap 'exit 130' INT

serve=serve_multi_batch.sh
((server_nodes > 1)) || serve=serve_single.sh
if [[ ${SERVER:-openenv} == openenv ]]; then
    # This machine can reach a package index; a compute node may not.
    "$repository/deploy/local/run_uvicorn.sh" --install || say "the packages could not be installed here; the job will try"
fi
export CONNECTION_FILE=$work/connection.toml
# --export=ALL, whatever the site's default is: the jobs need the settings.
submit() { sbatch --parsable --export=ALL "$@"; }
server_job=$(submit --nodes="$server_nodes" "${both[@]}" "${server_flags[@]}" "$slurm_dir/$serve") ||
    fail "the server's job was not taken; sbatch's message is above"
server_job=${server_job%%;*}
say "job $server_job: servers on $server_nodes node(s), output in muster-serve-$server_job.out"
export SERVER_JOB=$server_job END_SERVER_JOB=1
# SLURM cancels the sweep if the server's job can never start; otherwise the sweep would wait for ever.
sweep_job=$(submit --nodes="$agent_nodes" --dependency="after:$server_job" --kill-on-invalid-dep=yes \
    "${both[@]}" "${sweep_flags[@]}" "$slurm_dir/sweep.sbatch" "$@") ||
    fail "the sweep's job was not taken; sbatch's message is above"
sweep_job=${sweep_job%%;*}
output=muster-sweep-$sweep_job.out
say "job $sweep_job: agents on $agent_nodes node(s), output in $output"

# In the background, because a trap does not run while a foreground command does.
touch "$output" 2>/dev/null || true
tail -n +1 -F "$output" 2>/dev/null &
follower=$!
begun=$SECONDS
until job_ended "$sweep_job"; do pause "$(patience "$begun")"; done
# The last output may take a moment to appear here.
pause 1
kill "$follower" 2>/dev/null || true
wait "$follower" 2>/dev/null || true
follower=''

# Prints "STATE EXIT_CODE SIGNAL". A job that ended before it began, or by its time limit, has the exit code 0.
verdict() {
    scontrol show job "$sweep_job" 2>/dev/null |
        sed -nE 's/.*JobState=([A-Z_]+).*/\1/p; s/.* ExitCode=([0-9]+):([0-9]+).*/\1 \2/p' | head -n 2 | tr '\n' ' '
}
for ((tries = 0; tries < 12; tries++)); do
    read -r state code by_signal <<<"$(verdict || true)"
    [[ -z $state ]] || break
    pause 5
done
[[ -n $state ]] || fail "SLURM does not say how job $sweep_job ended; $output may"
say "job $sweep_job: $state"
((by_signal == 0)) || code=$((128 + by_signal))
if [[ $state != COMPLETED && $code == 0 ]]; then
    code=1
    [[ $state != CANCELLED ]] || code=143
fi
exit "$code"
