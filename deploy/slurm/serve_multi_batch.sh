#!/usr/bin/env bash
#SBATCH --job-name=muster-serve
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --no-requeue
#SBATCH --output=muster-serve-%j.out
# slurm-multi: runs a server on each node, behind a balancer, until the job ends.
#
#   sbatch [--nodes N] [--partition P] [--account A] [--time T] deploy/slurm/serve_multi_batch.sh
#
# Settings are environment variables:
#   SERVER               openenv, refserver, or command with SERVE_COMMAND (run with HOST, PORT, WORKERS and
#                        MAX_CONCURRENT_ENVS set; must answer GET /health)                 [openenv]
#   WORKERS              worker processes per node                                         [processors of a node]
#   MAX_CONCURRENT_ENVS  concurrent WebSocket sessions per worker                          [SESSIONS]
#   BALANCER             haproxy, envoy, or none (several urls, clients go round robin)    [haproxy]
#   SESSIONS             concurrent sessions that the proxies must carry                   [16384]
#   PROXY_NODES          nodes that run proxies, "n1 n2"; "n1=10.0.0.1,10.0.0.2" uses these addresses, each with its own
#                        source ports                                                      [all nodes of the job]
#   PROXY_THREADS, PROXY_PROGRAM, PORT, BACKEND_PORT     ports are computed from the job's number
#   CONNECTION_FILE      written once everything answers                                   [deploy/slurm/connection.toml, or, if
#                        that is not writable, connection.toml where the job was submitted]
#   VENV                 of run_uvicorn.sh: folder of openenv's Python packages            [deploy/openenv/.venv]
#   START_SECONDS_MAX    time limit of the start                                           [300]
#   MUSTER_BIN           folder of coordinator and refserver                               [target/release, or PATH]
set -euo pipefail
script_name=serve_multi_batch.sh
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# sbatch runs a copy of this file; SLURM knows the original's path.
[[ -e $here/common.sh ]] ||
    here=$(dirname "$(scontrol show job "${SLURM_JOB_ID:-}" | sed -nE '/^ *Command=/{s/^ *Command=([^ ]*).*/\1/p;q}')")
[[ -e $here/common.sh ]] || here=${MUSTER_HOME:-$SLURM_SUBMIT_DIR}/deploy/slurm
# shellcheck source=deploy/slurm/common.sh
source "$here/common.sh"
# shellcheck source=deploy/slurm/serve.sh
source "$here/serve.sh"

inside_a_job "sbatch deploy/slurm/serve_multi_batch.sh"
START_COMMAND=${START_COMMAND:-sbatch --nodes=$SLURM_JOB_NUM_NODES deploy/slurm/serve_multi_batch.sh}
SERVER_NODELIST=$SLURM_JOB_NODELIST SERVER_CPUS=$SLURM_JOB_CPUS_PER_NODE
trap serve_stop EXIT
trap 'exit 143' TERM INT HUP
serve_start
serve_watch
