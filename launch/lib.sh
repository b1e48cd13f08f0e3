# shellcheck shell=bash
# What the other scripts share; sourced, never run.
#
# Every script takes --dry-run first: it prints the exact commands and runs none. What a command
# needs comes from the environment, and is named when it is missing. Sourcing takes --dry-run from
# the script's arguments, and answers --help and no arguments with the comment at its top.
set -euo pipefail

DRY_RUN=${DRY_RUN:-}

die() {
  echo "error: $*" >&2
  exit 1
}

# need NAME...: these variables must be set.
need() {
  local variable
  for variable in "$@"; do
    [[ -n ${!variable:-} ]] || die "set $variable in the environment; see the top of $0"
  done
}

# show WORD...: one line that can be pasted into a shell.
show() {
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}

# run WORD...: runs a command, or only shows it.
run() {
  if [[ -n $DRY_RUN ]]; then
    show "$@"
  else
    "$@"
  fi
}

# note WORD...: a line with the time.
note() {
  echo "$(date +%H:%M:%S) $*"
}

# again WORD...: runs a command until it succeeds, TRIES times (5) at most, with growing pauses.
again() {
  local try
  for ((try = 1; ; try++)); do
    "$@" && return
    ((try < ${TRIES:-5})) || return 1
    note "failed ($try of ${TRIES:-5}): $1 $2" >&2
    sleep "$((try * ${PAUSE:-5}))"
  done
}

# usage: the comment at the top of the script, without its marks.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
}

case ${1:-} in
  "" | help | -h | --help)
    usage
    exit
    ;;
  --dry-run)
    DRY_RUN=1
    shift
    ;;
esac
