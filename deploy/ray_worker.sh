#!/usr/bin/env bash
# Ray's worker: runs are computed here, in the environment that this script is started in.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/ray_worker.sh start HEADS_ADDRESS ADDRESS [OPTIONS]
       deploy/ray_worker.sh stop

HEADS_ADDRESS is the address that ray_head.sh was started with, ADDRESS that of this host in the same network. OPTIONS
are those of `ray start`, such as --num-cpus=8 --num-gpus=1; by default Ray counts CPUs, GPUs and memory.

The clone and its environment lie at the same path on every host, as do MARS_LAKE and DAGSTER_HOME, on a file system
that all hosts share. These variables must be set: DAGSTER_HOME, MARS_LAKE, and for Postgres DAGSTER_PG_HOST,
DAGSTER_PG_USER, DAGSTER_PG_PASSWORD and DAGSTER_PG_DB. RAY_PORT is the head's port (6379).
TEXT
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ray=$here/.venv/bin/ray
# A run may wait for CPUs as long as it has to: after 15 minutes, Ray would give it up.
export RAY_JOB_START_TIMEOUT_SECONDS=31536000
# Time for a terminated run to report that it was cancelled: after 3 seconds, Ray would kill it.
export RAY_JOB_STOP_WAIT_TIME_S=30

case "${1:-}" in
  start)
    [ $# -ge 3 ] || usage
    for name in DAGSTER_HOME MARS_LAKE; do
      [ -n "${!name:-}" ] || { echo "$name is not set: runs on this host would not find it" >&2; exit 2; }
      [ -d "${!name}" ] || { echo "$name=${!name} is no folder on this host: mount the shared file system" >&2; exit 2; }
    done
    cd "$here"
    "$ray" start --address="$2:${RAY_PORT:-6379}" --node-ip-address="$3" --disable-usage-stats "${@:4}"
    ;;
  stop)
    [ $# -eq 1 ] || usage
    "$ray" stop
    ;;
  *) usage ;;
esac
