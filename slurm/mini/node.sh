#!/usr/bin/env bash
# One node of a running mini-cluster: slurm/mini/node.sh start|stop|kill vlm1|vlm2 [accounting|bare]
set -euo pipefail
cd "$(dirname "$0")"
. ./common.sh
use_profile "${3:-accounting}"
case "${2:-}" in
  vlm1 | vlm2) ;;
  *) die "which node? vlm1 or vlm2" ;;
esac
running slurmctld || die "the profile $PROFILE is not up: slurm/mini/up.sh $PROFILE"
case "${1:-}" in
  start) start_node "$2" ;;
  stop) stop "slurmd-$2" ;;
  kill)
    signal "slurmd-$2" KILL
    stop "slurmd-$2"
    ;;
  *) die "start, stop or kill?" ;;
esac
