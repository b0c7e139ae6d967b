#!/usr/bin/env bash
# Ray on one node, as a task of a job's step: `node.sh OPTION…` with what `ray start` needs on this node. It ends when Ray
# does or after SIGTERM, and takes Ray's temporary folder along.
set -u

# Most of what redress moves does not pass through the object store: images are read and decoded in the workers, weights
# and records go to storage. 2 GiB hold what Ray Data passes on in evaluations; the default is 30 % of the node's memory.
object_store=$((2 << 30))

mkdir -m 700 "$REDRESS_RAY_TEMP" || exit 1
trap 'rm -rf "$REDRESS_RAY_TEMP"' EXIT
trap 'kill -s TERM "$ray" 2>/dev/null' TERM INT

ray start "$@" --block --node-name="$SLURMD_NODENAME" --num-cpus="$SLURM_CPUS_ON_NODE" \
    --object-store-memory="$object_store" --temp-dir="$REDRESS_RAY_TEMP" \
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --disable-usage-stats &
ray=$!
while :; do
    wait "$ray"
    status=$?
    kill -0 "$ray" 2>/dev/null || break # else a signal ended the waiting
done
exit "$status"
