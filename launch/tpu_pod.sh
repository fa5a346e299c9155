#!/usr/bin/env bash
# One TPU slice on Google Cloud, of one host or many, from request to deletion.
#
#   launch/tpu_pod.sh create --name NAME --zone ZONE --type v5litepod-16 [--spot]
#   launch/tpu_pod.sh setup  --name NAME --zone ZONE --share HOST:/PATH
#   launch/tpu_pod.sh run    --name NAME --zone ZONE -- train configs/visualthinker_r1_zero.yaml
#   launch/tpu_pod.sh status | stop | delete --name NAME --zone ZONE
#   launch/tpu_pod.sh fetch  --name NAME --zone ZONE --run visualthinker_r1_zero
#
#   launch/tpu_pod.sh run --retry 20 --spot --type v5litepod-16 --share HOST:/PATH --name NAME --zone ZONE -- train ...
#       creates and sets up what is missing, runs, and after a preemption does so again.
#
# After `--` stands the vtzero command; --distributed is added to it. Every verb may be repeated: what exists is
# kept, a run that goes on is followed, a run that ended is resumed from its last checkpoint.
#
#   --type TYPE        accelerator type as in `gcloud compute tpus accelerator-types list`
#   --runtime VERSION  TPU software version (default: the one for the type)
#   --spot             cheaper, and may be taken away at any time
#   --share HOST:/PATH NFS export (such as a Filestore share) mounted on every host; runs/, models/ and the cache of
#                      data sets lie there. Runs are written through ordinary paths: a gs:// path is not supported.
#                      Without it they lie on the machine's own disk, which serves one host and is deleted with it.
#   --project PROJECT  (default: gcloud's)
#   --poll SECONDS     between two looks at a state (default: 30)
#   --dry-run          print every command, run none
#
# With several hosts gcloud wants the key to be in an agent: ssh-add ~/.ssh/google_compute_engine

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

REPOSITORY=$(cd "$(dirname "$0")/.." && pwd)
VERBS="create, setup, run, status, stop, fetch or delete"
NAME="" ZONE="" PROJECT="" TYPE="" RUNTIME="" SHARE="" RUN_FOLDER=""
SPOT=false RETRY=0 POLL=30 STATE="" FLAGS=() COMMAND=()

read_arguments() {
  [[ ${1:-} == --help ]] && help
  VERB=${1:-}
  [[ -n $VERB ]] || mistake "wants $VERBS"
  shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --name) NAME=$(value "$@") ;;
      --zone) ZONE=$(value "$@") ;;
      --project) PROJECT=$(value "$@") ;;
      --type) TYPE=$(value "$@") ;;
      --runtime) RUNTIME=$(value "$@") ;;
      --share) SHARE=$(value "$@") ;;
      --run) RUN_FOLDER=$(value "$@") ;;
      --retry) RETRY=$(value "$@") ;;
      --poll) POLL=$(value "$@") ;;
      --spot) SPOT=true ;;
      --dry-run) DRY_RUN=true ;;
      --help) help ;;
      --) shift && COMMAND=("$@") && break ;;
      *) mistake "unknown flag $1 (--help lists them)" ;;
    esac
    case $1 in
      --retry) shift 2 ;; # the loop's own, not for its steps
      --spot | --dry-run) FLAGS+=("$1") && shift ;;
      *) FLAGS+=("$1" "$2") && shift 2 ;;
    esac
  done
}

check_arguments() {
  [[ -n $NAME ]] || mistake "wants --name"
  [[ -n $ZONE ]] || mistake "wants --zone"
  [[ $NAME =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || mistake "--name $NAME: small letters, digits and dashes only"
  [[ $RETRY =~ ^[0-9]+$ ]] || mistake "--retry $RETRY: a number of times"
  [[ $POLL =~ ^[0-9]+$ ]] || mistake "--poll $POLL: a number of seconds"
  [[ -z $SHARE || $SHARE =~ ^[A-Za-z0-9.-]+:/[^/] ]] || mistake "--share $SHARE: an NFS export, as HOST:/PATH"
}

# The software version that Cloud TPU names for JAX on each type.
runtime() {
  case $TYPE in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) mistake "--type $TYPE: v2-*, v3-*, v4-*, v5litepod-*, v5p-* or v6e-*; for others give --runtime" ;;
  esac
}

tpus() {
  run gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"} --quiet
}

# The keep-alive makes a machine that was taken away an error within two minutes, not a wait for ever.
on_workers() {
  tpus tpu-vm ssh "$NAME" --worker="$1" --command="$2" \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4
}

# Sets STATE to that of the request, or to nothing where there is none. A dry run assumes $1.
# `list` and not `describe`, which fails alike for what is absent and for what could not be asked.
read_state() {
  local ask=(tpus queued-resources list --filter="name~/$NAME\$" --format="value(state.state)")
  if $DRY_RUN; then
    "${ask[@]}"
    STATE=$1
  else
    STATE=$("${ask[@]}")
  fi
}

pause() {
  run sleep "$POLL"
}

create() {
  [[ -n $TYPE ]] || mistake "$VERB wants --type"
  RUNTIME=${RUNTIME:-$(runtime)}
  read_state ""
  while [[ $STATE == SUSPENDING || $STATE == DELETING ]]; do
    pause
    read_state ""
  done
  # A request whose machines were taken away stays as SUSPENDED and is never filled again.
  if [[ $STATE == SUSPENDED || $STATE == FAILED ]]; then
    say "$NAME is $STATE: deleting the request and making it again"
    delete_request
    STATE=""
  fi
  [[ -n $STATE ]] || request
  wait_until_active
}

request() {
  local spot=()
  if $SPOT; then spot=(--spot); fi
  tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
    --runtime-version="$RUNTIME" ${spot[@]+"${spot[@]}"}
}

delete_request() {
  tpus queued-resources delete "$NAME" --force
}

wait_until_active() {
  local before=""
  while true; do
    read_state ACTIVE
    [[ $STATE == "$before" ]] || say "$NAME is ${STATE:-not there yet}"
    before=$STATE
    case $STATE in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED) return 1 ;;
    esac
    pause
  done
}

# The working tree's own code travels, so that what runs there is what is here.
setup() {
  local archive=vtzero.tar.gz
  if ! $DRY_RUN; then
    archive=$(mktemp -d)/vtzero.tar.gz
    # shellcheck disable=SC2064  # the path of now is meant
    trap "rm -rf '$(dirname "$archive")'" EXIT
  fi
  run tar -C "$REPOSITORY" --exclude=__pycache__ -czf "$archive" \
    pyproject.toml README.md LICENSE vtzero configs launch
  tpus tpu-vm scp "$archive" "$NAME:vtzero.tar.gz" --worker=all
  # No new code under a run that goes on: it keeps its own.
  on_workers all "mkdir -p vtzero && flock -n -E 0 vtzero/run.lock tar -xzf vtzero.tar.gz -C vtzero && \
$(quoted bash vtzero/launch/tpu_worker.sh setup ${SHARE:+"$SHARE"})"
}

run_once() {
  on_workers all "$(quoted bash vtzero/launch/tpu_worker.sh run vtzero "${COMMAND[@]}" --distributed)"
}

run_command() {
  [[ ${#COMMAND[@]} -gt 0 ]] || mistake "run wants the vtzero command after --, such as: -- train configs/tiny.yaml"
  if [[ $RETRY == 0 ]]; then
    run_once
  else
    run_with_retries
  fi
}

# Each step is this script again, so that a failure inside a step ends that step and not the loop.
run_with_retries() {
  [[ -n $SHARE ]] || mistake "run --retry wants --share: on the machine's own disk the checkpoints go with it"
  local attempt code
  for ((attempt = 0; attempt <= RETRY; attempt++)); do
    code=0
    { "$0" create "${FLAGS[@]}" && "$0" setup "${FLAGS[@]}" && "$0" run "${FLAGS[@]}" -- "${COMMAND[@]}"; } || code=$?
    # 2 is a mistake in what was asked: it would be the same the next time. 130 is `stop`.
    if [[ $code == 0 || $code == 2 || $code == 130 ]]; then exit $code; fi
    if [[ $code == 75 ]]; then
      say "the run has saved and goes on; $((RETRY - attempt)) more attempts"
    else
      say "ended with exit code $code; $((RETRY - attempt)) more attempts"
    fi
    if ((attempt < RETRY)); then pause; fi
  done
  exit "$code"
}

status() {
  read_state ACTIVE
  say "$NAME is ${STATE:-not there}"
  if [[ $STATE == ACTIVE ]]; then on_workers 0 "bash vtzero/launch/tpu_worker.sh status"; fi
}

fetch() {
  [[ -n $RUN_FOLDER ]] || mistake "fetch wants --run, the name of a folder in runs/"
  run mkdir -p runs
  tpus tpu-vm scp "$NAME:vtzero/runs/$RUN_FOLDER" runs --worker=0 --recurse
}

delete() {
  read_state ACTIVE
  if [[ -z $STATE ]]; then
    say "no $NAME: nothing to delete"
  else
    delete_request
  fi
}

read_arguments "$@"
case $VERB in
  create | setup | run | status | stop | fetch | delete) check_arguments ;;
  *) mistake "unknown verb $VERB: $VERBS" ;;
esac
case $VERB in
  run) run_command ;;
  stop) on_workers all "bash vtzero/launch/tpu_worker.sh stop" ;;
  *) "$VERB" ;;
esac
