# shellcheck shell=bash
# Shared by the launch scripts: mistakes in one line, and commands that a dry run prints instead of running.

DRY_RUN=false

# The comment at the head of the script is its help.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
}

mistake() {
  echo "${0##*/}: $*" >&2
  exit 2
}

say() {
  echo "${0##*/}: $*" >&2
}

# Call it with the flag and what follows: `value "$@"` is the flag's value, or a mistake.
value() {
  if [[ $# -lt 2 || $2 == -* ]]; then
    mistake "$1 wants a value"
  fi
  printf '%s' "$2"
}

# Words as they would be typed into a shell, quoted only where they must be.
quoted() {
  local word line=""
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'${word//\'/\'\\\'\'}'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

run() {
  if $DRY_RUN; then
    quoted "$@"
  else
    "$@"
  fi
}
