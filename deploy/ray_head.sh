#!/usr/bin/env bash
# Ray's head: it sends runs to the workers, and computes nothing itself. It runs on the host of Dagster's daemon.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deploy/ray_head.sh start ADDRESS
       deploy/ray_head.sh stop

ADDRESS is this host's address in the network of the workers, such as 10.0.0.1.
Afterwards, on every worker:  deploy/ray_worker.sh start ADDRESS WORKERS_ADDRESS
and for Dagster:              export MARS_RAY_DASHBOARD=http://ADDRESS:8265

Runs get the environment of `ray_worker.sh start`. Ports: RAY_PORT (6379) and RAY_DASHBOARD_PORT (8265).
TEXT
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ray=$here/.venv/bin/ray
# As in ray_worker.sh, which says why.
export RAY_JOB_START_TIMEOUT_SECONDS=31536000 RAY_JOB_STOP_WAIT_TIME_S=30

case "${1:-}" in
  start)
    [ $# -eq 2 ] || usage
    [[ $2 != 0.0.0.0 && $2 != :: ]] || { echo "ADDRESS is every network of this host: choose one" >&2; exit 2; }
    "$ray" start --head --node-ip-address="$2" --port="${RAY_PORT:-6379}" \
      --dashboard-host="$2" --dashboard-port="${RAY_DASHBOARD_PORT:-8265}" \
      --num-cpus=0 --num-gpus=0 --disable-usage-stats
    cat <<TEXT

WARNING: Ray asks for no password. Whoever reaches ports ${RAY_PORT:-6379} and ${RAY_DASHBOARD_PORT:-8265} at $2 can run commands as
$(id -un). Let a firewall admit the hosts of this cluster alone.
TEXT
    ;;
  stop)
    [ $# -eq 1 ] || usage
    "$ray" stop
    ;;
  *) usage ;;
esac
