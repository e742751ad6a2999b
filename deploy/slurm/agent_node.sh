#!/usr/bin/env bash
# One agent: what sweep.sh starts by srun. Its arguments are the program and its flags; its exit code is the agent's.
#
# With --no-kill a job outlives the node that its batch script ran on, and nothing would end it before its time limit. So an agent
# that has lost the coordinator for good looks whether that node is down, and if so cancels the job.
set -euo pipefail
script_name="agent_node.sh on ${SLURMD_NODENAME:?started by srun only}"
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# SLURM looks for a failed node every few minutes at most (SlurmdTimeout, 300 s by default).
DOWN_SECONDS_MAX=${DOWN_SECONDS_MAX:-600}
COORDINATOR_LOST=11

# The agent gets signals too, and reports before it ends: it is waited for.
trap : TERM INT
code=0
"$@" || code=$?
if ((code == COORDINATOR_LOST)); then
    for ((waited = 0; waited < DOWN_SECONDS_MAX; waited += 5)); do
        state=$(sinfo --noheader --Node --nodes="$SWEEP_HEAD" --format=%T 2>/dev/null | head -n 1) || state=
        if [[ $state == down* ]]; then
            say "$SWEEP_HEAD, where the coordinator ran, is down; cancelling job $SLURM_JOB_ID"
            scancel "$SLURM_JOB_ID" || true
            break
        fi
        # It is up: the batch script is there to say what this means.
        [[ -z $state || $state == *'*' ]] || ((waited < 60)) || break
        sleep 5
    done
fi
exit "$code"
