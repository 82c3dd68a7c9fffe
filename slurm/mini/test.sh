#!/usr/bin/env bash
# Run a command with both clusters up: slurm/mini/test.sh COMMAND...   Afterwards those that it had to start are taken
# down, whatever came of the command; those that ran before stay. Its exit status is the command's.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
[ $# -gt 0 ] || die "which command?"

started=""
for profile in $PROFILES; do
  use_profile "$profile"
  running slurmctld || started="$started $profile"
done
take_down() {
  local status=$?
  # shellcheck disable=SC2086 # a list of words
  [ -z "$started" ] || "$here/down.sh" $started || true
  exit "$status"
}
trap take_down EXIT
"$here/up.sh"
# shellcheck source=/dev/null
. <("$here/env.sh" accounting)
"$@"
