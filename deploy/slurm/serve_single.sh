#!/usr/bin/env bash
#SBATCH --job-name=muster-serve
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --no-requeue
#SBATCH --output=muster-serve-%j.out
# slurm-single: runs a server on one node until the job ends.
#
#   sbatch [--partition P] [--account A] [--time T] deploy/slurm/serve_single.sh
#
# Settings are the same environment variables as of serve_multi_batch.sh; there is no balancer.
set -euo pipefail
script_name=serve_single.sh
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# sbatch runs a copy of this file; SLURM knows the original's path.
[[ -e $here/common.sh ]] ||
    here=$(dirname "$(scontrol show job "${SLURM_JOB_ID:-}" | sed -nE '/^ *Command=/{s/^ *Command=([^ ]*).*/\1/p;q}')")
[[ -e $here/common.sh ]] || here=${MUSTER_HOME:-$SLURM_SUBMIT_DIR}/deploy/slurm
# shellcheck source=deploy/slurm/common.sh
source "$here/common.sh"
# shellcheck source=deploy/slurm/serve.sh
source "$here/serve.sh"

inside_a_job "sbatch deploy/slurm/serve_single.sh"
((SLURM_JOB_NUM_NODES == 1)) || fail "$SLURM_JOB_NUM_NODES nodes; this serves on one, serve_multi_batch.sh on several"
BALANCER=none
START_COMMAND=${START_COMMAND:-sbatch deploy/slurm/serve_single.sh}
SERVER_NODELIST=$SLURM_JOB_NODELIST SERVER_CPUS=$SLURM_JOB_CPUS_PER_NODE
trap serve_stop EXIT
trap 'exit 143' TERM INT HUP
serve_start
serve_watch
