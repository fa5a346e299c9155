#!/usr/bin/env bash
# One machine with several GPUs. One process drives them all, so nothing has to be launched: the config's mesh
# spreads over every GPU that JAX sees. This sets what is worth setting, and runs the command.
#
#   launch/gpu_host.sh [--gpus 0,1,2,3] [--dry-run] -- train configs/visualthinker_r1_zero.yaml
#
#   --gpus LIST   only these (default: all)
#   --dry-run     print the command, run nothing
#
# Several such machines without a scheduler: the same command on each, after setting JAX_COORDINATOR_ADDRESS (a port
# of the first machine, as HOST:PORT), JAX_NUM_PROCESSES and JAX_PROCESS_ID, with --distributed at its end.

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

GPUS=""
while [[ $# -gt 0 ]]; do
  case $1 in
    --gpus) GPUS=$(value "$@") && shift 2 || exit 2 ;;
    --dry-run) DRY_RUN=true && shift ;;
    --help) help ;;
    --) break ;;
    *) mistake "unknown flag $1 (--help lists them)" ;;
  esac
done
[[ $# -gt 1 ]] || mistake "wants the vtzero command after --, such as: -- train configs/tiny.yaml"
shift
[[ -z $GPUS || $GPUS =~ ^[0-9]+(,[0-9]+)*$ ]] || mistake "--gpus $GPUS: numbers, commas between"

# JAX takes three quarters of a GPU's memory unless told otherwise.
SETTINGS=("XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}")
[[ -z $GPUS ]] || SETTINGS+=("CUDA_VISIBLE_DEVICES=$GPUS")

COMMAND=(env "${SETTINGS[@]}" "${VTZERO:-vtzero}" "$@")
if $DRY_RUN; then
  quoted "${COMMAND[@]}"
else
  exec "${COMMAND[@]}" # in the place of this script, so that a signal to it reaches the run
fi
