#!/usr/bin/env bash
# Ray on one node, as a task of a job's step: `node.sh OPTION…` with what `ray start` needs on this node. It ends when Ray
# does or after SIGTERM, and takes Ray's temporary folder along.
set -u

# Tasks and counts pass through the object store; images, weights and descriptors go by storage. Ray's default is 30 % of
# the node's memory.
object_store=2147483648

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
