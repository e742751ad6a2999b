#!/bin/sh
# The container's first process: it becomes uvicorn. Settings are environment variables, with their defaults in Dockerfile:
# WORKERS, MAX_CONCURRENT_ENVS (per worker), HOST, PORT, LOG_LEVEL, READY_DIR.
set -eu

for name in WORKERS MAX_CONCURRENT_ENVS PORT; do
    value=$(printenv "$name" || true)
    case $value in
        '' | *[!0-9]* | 0*)
            printf 'serve.sh: %s must be a positive whole number, not "%s"\n' "$name" "$value" >&2
            exit 2
            ;;
    esac
done

# Every session needs a file descriptor.
# shellcheck disable=SC3045 # dash, bash and busybox have it
ulimit -n "$(ulimit -H -n)"
# A restarted container still has the files of its former workers there.
rm -rf "$READY_DIR"
mkdir -p "$READY_DIR"
exec python -m uvicorn benchmark_env.app:app \
    --host "$HOST" --port "$PORT" --workers "$WORKERS" --log-level "$LOG_LEVEL"
