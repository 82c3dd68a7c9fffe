#!/usr/bin/env bash
# Print what makes Slurm's commands, and the tests, talk to a profile:  source <(slurm/mini/env.sh accounting)
set -euo pipefail
cd "$(dirname "$0")"
. ./common.sh
use_profile bare
bare=$SLURM_CONF
use_profile accounting
accounting=$SLURM_CONF
use_profile "${1:-accounting}"
echo "export SLURM_CONF='$SLURM_CONF' VLMABLATE_SLURM_CONF='$accounting' VLMABLATE_SLURM_CONF_BARE='$bare'"
