#!/usr/bin/env bash
# One agent: what sweep.sh starts by srun. Its arguments are the program and its flags; its exit code is the agent's.
#
# With --no-kill a job outlives the node that its batch script ran on, and nothing would end it before its time limit. So an agent
# that has lost the coordinator for good looks whether that node is down, and if so cancels the job.
set -euo pipefail
script_name="agent_node.sh on ${SLURMD_NODENAME:?started by srun only}"
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

COORDINATOR_LOST=11

# When SLURM calls a node down: SlurmdTimeout, and twice that to be sure; 0 is never.
down_seconds() {
    local timeout
    timeout=$(scontrol show config 2>/dev/null | sed -nE 's/^SlurmdTimeout *= *([0-9]+) sec.*/\1/p')
    printf '%s' $((${timeout:-300} * 2 + 60))
}

# The agent gets signals too, and reports before it ends: it is waited for.
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
            # It does not answer, or SLURM does not: there is more to come.
            *'*' | '') ;;
            # It is up: the batch script is there to say what this means.
            *) ((waited < 60)) || break ;;
        esac
        pause 5
        [[ -z $signalled ]] || break
    done
fi
exit "$code"
