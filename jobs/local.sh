#!/usr/bin/env bash
# Runs a command as N processes of one job on this machine, as a scheduler would:
#
#   jobs/local.sh 2 .venv/bin/python -m experiments.response --workdir runs/two
#
# The first process speaks for all. Its exit code is the job's, or that of the first
# process that failed. Ctrl-C and SIGTERM reach one process: the others stop with it.
set -uo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: jobs/local.sh PROCESSES COMMAND..." >&2
    exit 2
fi
count=$1
shift

export JAX_NUM_PROCESSES=$count
# any free port will do: of one range, by the number of this shell
export JAX_COORDINATOR_ADDRESS=${JAX_COORDINATOR_ADDRESS:-localhost:$((20000 + $$ % 20000))}

pids=()
trap 'kill -TERM "${pids[-1]}" 2>/dev/null' INT TERM
for ((rank = 0; rank < count; rank++)); do
    # in a process group of its own each, so that Ctrl-C is told to one of them
    JAX_PROCESS_ID=$rank setsid "$@" &
    pids+=($!)
done

code=0
for pid in "${pids[@]}"; do
    wait "$pid"
    one=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal interrupts wait, not the process
        wait "$pid"
        one=$?
    done
    ((code == 0)) && code=$one
done
exit "$code"
