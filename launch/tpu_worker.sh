#!/usr/bin/env bash
# What launch/tpu_pod.sh runs on each host of a slice.
#
#   tpu_worker.sh setup [HOST:/PATH]   install, and mount the shared folder
#   tpu_worker.sh run COMMAND ...      start the command, or follow the one that goes on; its exit code is this one's
#   tpu_worker.sh status               whether one goes on, and the end of its log
#   tpu_worker.sh stop                 end it; it has five minutes to save
#
# The command outlives the connection that started it. A lock that it holds says that it goes on; its output is in
# run.log, its exit code in run.exit. Exit code 75 says that it saved on SIGTERM and goes on when started again; after
# `stop` it is 130 instead, which nobody starts again.

set -euo pipefail
cd "$(dirname "$0")/.."
MOUNT=/mnt/vtzero
PATIENCE=${PATIENCE:-300} # a phase of a step, and writing, must end within
STOPPED=130

# Stays beside the command and writes its exit code; `stop` signals both, and only the command heeds it.
# shellcheck disable=SC2016  # expanded by the shell that runs it
KEEPER='
  echo $$ >run.pid
  trap "" TERM
  (trap - TERM; exec "$@")
  echo $? >run.exit
'

setup() {
  if [[ -n $1 ]]; then mount_share "$1"; fi
  # The machines come with Python 3.10; uv brings a newer one.
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  [[ -x .venv/bin/python ]] || uv venv --quiet --python 3.12 .venv
  uv pip install --quiet --python .venv/bin/python --editable '.[tpu]'
}

# runs/, models/ and cache/ become links into the share, so that a config's own paths serve here too.
mount_share() {
  command -v mount.nfs >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common; }
  sudo mkdir -p "$MOUNT"
  mountpoint -q "$MOUNT" || sudo mount -t nfs "$1" "$MOUNT"
  local folder
  for folder in runs models cache; do
    # Open to all: the hosts of a slice need not agree on the number of a user.
    sudo install -d -m 0777 "$MOUNT/$folder"
    if [[ -d $folder && ! -L $folder ]]; then
      echo "tpu_worker.sh: $folder/ holds files already; move them away to use the share" >&2
      exit 2
    fi
    ln -sfn "$MOUNT/$folder" "$folder"
  done
}

run() {
  exec 9>run.lock
  if flock --nonblock 9; then
    start "$@"
  else
    echo "tpu_worker.sh: a run goes on here; following it" >&2
  fi
  exec 9>&- # from here on the lock is held by the run alone
  tail -n +1 -F run.log &
  local follower=$!
  # shellcheck disable=SC2064  # the process of now is meant
  trap "kill $follower 2>/dev/null || true" EXIT
  flock run.lock true
  sleep 0.5 # for the last lines
  local code
  code=$(cat run.exit 2>/dev/null || echo 1)
  if [[ -e run.stopped && $code != 0 ]]; then code=$STOPPED; fi
  return "$code"
}

start() {
  export PATH="$PWD/.venv/bin:$PATH" VTZERO_CACHE="$PWD/cache"
  # Only the first process writes compiled programs, and the machine's own disk goes with it.
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/cache/programs}"
  umask 000 # see mount_share
  rm -f run.exit run.stopped
  : >run.log
  # A session of its own: the end of the connection does not reach it, and `stop` reaches all of it.
  setsid bash -c "$KEEPER" tpu_worker "$@" >>run.log 2>&1 </dev/null &
}

status() {
  if [[ ! -e run.log ]]; then
    echo "no run yet"
    return
  fi
  if flock --nonblock run.lock true; then
    echo "ended with exit code $(cat run.exit 2>/dev/null || echo unknown)"
  else
    echo "running"
  fi
  tail -n 5 run.log
}

stop() {
  if [[ -e run.lock ]] && ! flock --nonblock run.lock true; then
    touch run.stopped
    kill -TERM -- "-$(cat run.pid)"
    flock --timeout "$PATIENCE" run.lock true || kill -KILL -- "-$(cat run.pid)"
  fi
}

case ${1:-} in
  setup) setup "${2:-}" ;;
  run) shift && run "$@" ;;
  status | stop) "$1" ;;
  *) echo "tpu_worker.sh: wants setup, run, status or stop" >&2 && exit 2 ;;
esac
