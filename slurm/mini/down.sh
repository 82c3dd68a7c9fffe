#!/usr/bin/env bash
# Stop what up.sh started, and nothing else, and remove its files: slurm/mini/down.sh [accounting|bare ...]
# (default: both). KEEP=1 keeps the files: the logs, and the state that the next up.sh goes on from.
set -euo pipefail
cd "$(dirname "$0")"
. ./common.sh

no_jobs() { [ -z "$(timeout 5 squeue --noheader || echo unknown)" ]; }

# Jobs whose daemons died go on by themselves. They and their watchers are known by the variable that only this cluster
# gives them.
kill_leftovers() {
  local process
  for process in /proc/[0-9]*; do
    { grep -qzxF "SLURM_CONF=$SLURM_CONF" "$process/environ" &&
      { [ "$(cat "$process/comm")" = slurmstepd ] || grep -qz '^SLURM_JOB_ID=' "$process/environ"; }; } 2>/dev/null ||
      continue
    kill -s KILL "${process#/proc/}" 2>/dev/null || true
  done
}

# shellcheck disable=SC2048 # names of profiles have no spaces
for profile in ${*:-$PROFILES}; do
  use_profile "$profile"
  [ -d "$ROOT" ] || continue
  lock
  if running slurmctld && jobs=$(timeout 5 squeue --noheader --format=%A 2> /dev/null) && [ -n "$jobs" ]; then
    sort -u <<< "$jobs" | xargs timeout 10 scancel --quiet || true
    within 15 no_jobs || true
  fi
  stop slurmctld slurmd-vlm1 slurmd-vlm2
  kill_leftovers
  stop slurmdbd
  stop mariadb munged
  [ -n "${KEEP:-}" ] || rm -rf "$ROOT"
  echo "Slurm ($PROFILE) is down"
done
