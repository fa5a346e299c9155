#!/usr/bin/env bash
# A run on GKE as a Kubernetes JobSet, on TPU slices or on GPU nodes. The cluster needs the JobSet controller, and an
# image made by launch/Dockerfile.
#
#   launch/jobset.sh apply tpu --name NAME --image IMAGE --volume CLAIM \
#       --accelerator tpu-v5-lite-podslice --topology 4x4 -- train configs/visualthinker_r1_zero.yaml
#   launch/jobset.sh apply gpu --name NAME --image IMAGE --volume CLAIM \
#       --accelerator nvidia-h100-80gb --hosts 2 -- train configs/visualthinker_r1_zero.yaml
#   launch/jobset.sh render tpu|gpu ...      print the manifest alone
#   launch/jobset.sh status | logs | delete --name NAME
#
# After `--` stands the vtzero command; --distributed is added to it. Applying the same again changes nothing. A
# JobSet that ended is not started again by `apply`: delete it and apply it, and the run resumes from its checkpoint.
#
#   --volume CLAIM      a persistent volume claim that all pods may write (ReadWriteMany, such as Filestore); runs/,
#                       models/ and the cache of data sets lie there
#   --accelerator NAME  the node label cloud.google.com/gke-tpu-accelerator (tpu-v4-podslice, tpu-v5-lite-podslice,
#                       tpu-v5p-slice, tpu-v6e-slice) or cloud.google.com/gke-accelerator
#   --topology AxB[xC]  TPU: the chips of a slice
#   --slices N          TPU: as many slices (default: 1)
#   --hosts N           GPU: as many nodes; TPU: follows from the topology
#   --chips N           chips or GPUs of a host (default: TPU 4, GPU 8)
#   --restarts N        how often failed or preempted processes start again (default: 10)
#   --namespace NAME    (default: kubectl's)
#   --dry-run           print the manifest and every command, run none

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

FOLDER=$(cd "$(dirname "$0")" && pwd)
VERBS="render, apply, status, logs or delete"
# Only these are filled in: whatever else looks like a variable is left as it stands.
VARIABLES=(NAME IMAGE VOLUME ACCELERATOR TOPOLOGY SLICES HOSTS CHIPS RESTARTS ARGUMENTS)
KIND="" NAME="" IMAGE="" VOLUME="" ACCELERATOR="" TOPOLOGY="" SLICES=1 HOSTS="" CHIPS="" RESTARTS=10
ARGUMENTS="" NAMESPACE="" COMMAND=()

read_arguments() {
  [[ ${1:-} == --help ]] && help
  VERB=${1:-}
  case $VERB in
    render | apply) KIND=${2:-} && [[ $KIND == tpu || $KIND == gpu ]] || mistake "$VERB wants tpu or gpu" ;;
    status | logs | delete) ;;
    "") mistake "wants $VERBS" ;;
    *) mistake "unknown verb $VERB: $VERBS" ;;
  esac
  if [[ -n $KIND ]]; then shift; fi
  shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --name) NAME=$(value "$@") ;;
      --image) IMAGE=$(value "$@") ;;
      --volume) VOLUME=$(value "$@") ;;
      --accelerator) ACCELERATOR=$(value "$@") ;;
      --topology) TOPOLOGY=$(value "$@") ;;
      --slices) SLICES=$(value "$@") ;;
      --hosts) HOSTS=$(value "$@") ;;
      --chips) CHIPS=$(value "$@") ;;
      --restarts) RESTARTS=$(value "$@") ;;
      --namespace) NAMESPACE=$(value "$@") ;;
      --dry-run) DRY_RUN=true && shift && continue ;;
      --help) help ;;
      --) shift && COMMAND=("$@") && break ;;
      *) mistake "unknown flag $1 (--help lists them)" ;;
    esac
    shift 2
  done
  # 40 and not 63: the names of pods are longer than that of their JobSet.
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    mistake "--name '$NAME': up to 40 small letters, digits and dashes"
}

# Values go into YAML as they are, so each is held to letters that mean nothing there.
check_manifest_values() {
  [[ ${#COMMAND[@]} -gt 0 ]] || mistake "wants the vtzero command after --, such as: -- train configs/tiny.yaml"
  [[ $IMAGE =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] || mistake "--image '$IMAGE': the name of an image"
  [[ $VOLUME =~ ^[a-z0-9][-.a-z0-9]*$ ]] || mistake "--volume '$VOLUME': the name of a persistent volume claim"
  [[ $ACCELERATOR =~ ^[a-z0-9][-a-z0-9]*$ ]] || mistake "--accelerator '$ACCELERATOR': the label of the nodes"
  [[ $RESTARTS =~ ^[0-9]+$ ]] || mistake "--restarts $RESTARTS: a number"
  [[ $SLICES =~ ^[1-9][0-9]*$ ]] || mistake "--slices $SLICES: a number"
  if [[ $KIND == tpu ]]; then count_tpu_hosts; else CHIPS=${CHIPS:-8}; fi
  [[ $CHIPS =~ ^[1-9][0-9]*$ ]] || mistake "--chips $CHIPS: a number"
  [[ $HOSTS =~ ^[1-9][0-9]*$ ]] || mistake "--hosts '$HOSTS': a number"
}

count_tpu_hosts() {
  [[ -z $HOSTS ]] || mistake "--hosts is for GPUs; for TPUs it follows from --topology and --chips"
  [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || mistake "--topology '$TOPOLOGY': as 4x4 or 2x2x4"
  CHIPS=${CHIPS:-4}
  [[ $CHIPS =~ ^[1-9][0-9]*$ ]] || mistake "--chips $CHIPS: a number"
  local chips=$((${TOPOLOGY//x/*}))
  ((chips % CHIPS == 0)) || mistake "--topology $TOPOLOGY: $chips chips do not divide into hosts of $CHIPS"
  HOSTS=$((chips / CHIPS))
}

# The vtzero command as a JSON list, which is YAML too.
json_list() {
  local word line=""
  for word in "$@"; do
    [[ $word != *[[:cntrl:]]* ]] || mistake "an argument of the command holds a line break or a control character"
    word=${word//\\/\\\\}
    line+="${line:+, }\"${word//\"/\\\"}\""
  done
  printf '[%s]' "$line"
}

render() {
  local text name
  text=$(cat "$FOLDER/jobset_$KIND.yaml")
  for name in "${VARIABLES[@]}"; do
    text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text"
}

on_cluster() {
  run kubectl "$@" ${NAMESPACE:+--namespace="$NAMESPACE"}
}

apply() {
  if $DRY_RUN; then
    render
    on_cluster apply --filename=-
  else
    render | on_cluster apply --filename=-
  fi
}

status() {
  on_cluster get jobset "$NAME"
  on_cluster get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide
}

# Process 0 writes the log of the run.
logs() {
  local first="jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
  on_cluster logs --follow --tail=-1 --selector="jobset.sigs.k8s.io/jobset-name=$NAME,$first"
}

delete() {
  on_cluster delete jobset "$NAME" --ignore-not-found
}

read_arguments "$@"
if [[ -n $KIND ]]; then
  check_manifest_values
  # shellcheck disable=SC2034  # render reads it by its name
  ARGUMENTS=$(json_list "${COMMAND[@]}" --distributed)
fi
"$VERB"
