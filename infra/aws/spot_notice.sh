#!/usr/bin/env bash
# On a node of AWS: wait for the notice that its spot instance will be taken, then drain the node in Ray, which tells those
# who train on it. `spot_notice.sh HEAD:PORT`, beside Ray; an instance that is no spot instance never gets a notice.
set -u
metadata=${METADATA:-http://169.254.169.254/latest}
interval_s=${INTERVAL_S:-5}
deadline_s=110 # AWS gives 120 s

has_notice() {
    local token
    token=$(curl -sf -m 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") &&
        curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

# Ray's id of this node, as the raylet of that cluster was started with it.
node_id() {
    local file words
    for file in /proc/[0-9]*/cmdline; do
        words=$(tr '\0' '\n' <"$file" 2>/dev/null)
        if grep -qxF -e "--gcs-address=$1" <<<"$words"; then sed -n 's/^--node_id=//p' <<<"$words"; fi
    done | head -n 1
}

until has_notice; do sleep "$interval_s"; done
ray drain-node --address "$1" --node-id "$(node_id "$1")" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "AWS takes this spot instance" --deadline-remaining-seconds "$deadline_s"
