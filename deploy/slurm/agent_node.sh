#!/usr/bin/env bash
# Runs one agent; sweep.sh starts it with srun. Its arguments are the program and its flags. Its exit code is the agent's.
#
# With --no-kill a job outlives the node of its batch script, and nothing else would end it before its time limit. So after an
# agent has lost the coordinator for good, this script checks whether that node is down, and if so cancels the job.
set -euo pipefail
script_name="agent_node.sh on ${SLURMD_NODENAME:?started by srun only}"
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

COORDINATOR_LOST=11

# Seconds after which SLURM has certainly marked a lost node as down: twice SlurmdTimeout, and a minute. SlurmdTimeout=0: never.
down_seconds() {
    local timeout
    timeout=$(scontrol show config 2>/dev/null | sed -nE 's/^SlurmdTimeout *= *([0-9]+) sec.*/\1/p')
    printf '%s' $((${timeout:-300} * 2 + 60))
}

# The agent gets the signals too and reports before it ends, so wait for it.
signalled=
trap 'signalled=1' TERM INT
code=0
"$@" || code=$?
if ((code == COORDINATOR_LOST)) && command -v sinfo >/dev/null; then
    limit=$(down_seconds)
    for ((waited = 0; waited < limit; waited += 5)); do
        state=$(timeout 30 sinfo --noheader --Node --nodes="$SWEEP_HEAD" --format=%T 2>/dev/null | head -n 1) || state=
        case $state in
            down* | drained* | fail*)
                say "$SWEEP_HEAD, where the coordinator ran, is $state; cancelling job $SLURM_JOB_ID"
                cancel_job "$SLURM_JOB_ID"
                break
                ;;
            # The node or SLURM does not answer: the state may still change.
            *'*' | '') ;;
            # The node is up, so the batch script still runs and handles the loss.
            *) ((waited < 60)) || break ;;
        esac
        pause 5
        [[ -z $signalled ]] || break
    done
fi
exit "$code"
