#!/usr/bin/env bash
# Runs the proxies of one node, from the table that `coordinator balancer` wrote. serve.sh starts it with srun, one task per node.
set -euo pipefail
script_name="proxy_node.sh on ${SLURMD_NODENAME:?started by srun only}"
# shellcheck source=deploy/slurm/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pids=()
# shellcheck disable=SC2317 # it is a trap
stop() {
    trap '' TERM
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT
trap 'exit 143' TERM

ulimit -n "$(ulimit -Hn)"
while IFS=$'\t' read -r _ node _ file; do
    [[ $node == "$SLURMD_NODENAME" ]] || continue
    case $BALANCER in
        haproxy) "$PROXY_PROGRAM" -db -q -f "$RUN_DIR/$file" & ;;
        # Each envoy on a machine needs its own base id, which identifies its shared memory.
        envoy) "$PROXY_PROGRAM" --config-path "$RUN_DIR/$file" --log-level error --use-dynamic-base-id & ;;
    esac
    pids+=("$!")
done <"$RUN_DIR/proxies.tsv"
[[ ${#pids[@]} -gt 0 ]] || fail "the table has no proxy for this node"
ended=0
wait -n "${pids[@]}" || ended=$?
fail "$BALANCER ended by itself (exit code $ended); its message is above"
