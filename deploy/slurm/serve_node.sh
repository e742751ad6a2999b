#!/usr/bin/env bash
# Runs the server of one node. serve.sh starts it with srun, one task per node.
set -euo pipefail
script_name="serve_node.sh on ${SLURMD_NODENAME:?started by srun only}"
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Every session needs a file descriptor.
ulimit -n "$(ulimit -Hn)"
case $SERVER in
    openenv)
        export HOST=0.0.0.0 PORT=$BACKEND_PORT REACH=$SLURMD_NODENAME CONNECTION_FILE=$RUN_DIR/$SLURMD_NODENAME.toml
        exec "$repository/deploy/local/run_uvicorn.sh"
        ;;
    refserver)
        exec "$REFSERVER" --listen "0.0.0.0:$BACKEND_PORT" --workers "$WORKERS" --max-concurrent-envs "$MAX_CONCURRENT_ENVS"
        ;;
    command)
        export HOST=0.0.0.0 PORT=$BACKEND_PORT
        exec bash -c "$SERVE_COMMAND"
        ;;
esac
