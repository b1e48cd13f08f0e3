#!/usr/bin/env bash
# A Cloud TPU slice: get it, run on all its workers, follow, and keep spot capacity alive.
#
#   launch/tpu.sh [--dry-run] COMMAND
#
#   create            asks for the slice as a queued resource
#   state             its state: WAITING_FOR_RESOURCES, ACTIVE, SUSPENDED, ...
#   setup             copies the committed files to every worker and installs them there
#   run -- WORDS      starts a command on all workers; it goes on when the connection ends
#   status            running, absent, or the exit status of the command
#   logs              follows the command's output (WORKER, 0 by default)
#   ssh               a shell on one worker (WORKER)
#   stop              SIGTERM to one worker's process: all save, and end with status 0
#   delete            gives the slice back
#   babysit -- WORDS  create, setup, run, and again whenever the slice is taken away, until the
#                     command ends with 0; training goes on from its newest checkpoint. A call of
#                     gcloud that fails is tried again; only what is not found is taken for gone
#
# Environment:
#   PROJECT, ZONE     where
#   TPU_NAME          name of the queued resource and of its slice
#   ACCELERATOR       type, such as v5p-32
#   LIBTPU_INIT_ARGS  what the compiler is told, by default nothing
#   RUNTIME           image of the TPU VM; by default the one of the accelerator
#   SPOT=1            spot capacity; RESERVED=1: a reservation
#   POLL              seconds between two looks of babysit, 60 by default
#   ATTEMPTS          failures of the command in a row that babysit accepts, 3 by default; one that
#                     had run for STEADY seconds (1800) begins another row. Status 2, by which a
#                     command says that its user has to mend something, is final
#
# The workdir of a run must be a folder that every worker sees: a bucket (gs://...), or NFS.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

FOLDER=unireason_jax # on the workers, below the home folder

runtime() {
  case ${ACCELERATOR%%-*} in
    v4) echo tpu-ubuntu2204-base ;;
    v5litepod) echo v2-alpha-tpuv5-lite ;;
    v5p) echo v2-alpha-tpuv5 ;;
    v6e) echo v2-alpha-tpuv6e ;;
    *) die "no image is known for ACCELERATOR=$ACCELERATOR; set RUNTIME" ;;
  esac
}

gcloud_tpus() {
  run gcloud compute tpus "$@" "--project=$PROJECT" "--zone=$ZONE"
}

# on WORKER WORDS: a shell line on one worker, or on all.
on() {
  gcloud_tpus tpu-vm ssh "$TPU_NAME" "--worker=$1" "--command=$2"
}

create() {
  need ACCELERATOR
  local image=${RUNTIME:-} kind=()
  [[ -n $image ]] || image=$(runtime)
  if [[ -n ${SPOT:-} ]]; then kind+=(--spot); fi
  if [[ -n ${RESERVED:-} ]]; then kind+=(--reserved); fi
  gcloud_tpus queued-resources create "$TPU_NAME" "--node-id=$TPU_NAME" \
    "--accelerator-type=$ACCELERATOR" "--runtime-version=$image" "${kind[@]}"
}

state() {
  gcloud_tpus queued-resources describe "$TPU_NAME" "--format=value(state.state)"
}

delete() {
  gcloud_tpus queued-resources delete "$TPU_NAME" --force --quiet
}

setup() {
  local archive
  archive=${TMPDIR:-/tmp}/$TPU_NAME.tar.gz
  run git -C "$here/.." archive --format=tar.gz "--output=$archive" HEAD &&
    gcloud_tpus tpu-vm scp "$archive" "$TPU_NAME:$FOLDER.tar.gz" --worker=all &&
    on all "mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER && cd $FOLDER && \
python3 -m pip install --user --quiet uv && \
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && \
python3 -m uv pip install --quiet --python .venv/bin/python -c constraints/py312.txt -e '.[tpu,gcs]'"
}

start() {
  local line told=${LIBTPU_INIT_ARGS:-}
  line="rm -f status; ${told:+export LIBTPU_INIT_ARGS=${told@Q}; }PATH=\$PWD/.venv/bin:\$PATH $(show "$@") & echo \$! > pid; \
wait \$!; echo \$? > status"
  on all "cd $FOLDER && nohup setsid bash -c $(show "$line") > log 2>&1 < /dev/null &"
}

status() {
  on 0 "cat $FOLDER/status 2> /dev/null || (test -e $FOLDER/pid && kill -0 \$(cat $FOLDER/pid) \
2> /dev/null && echo running) || echo absent"
}

# look: the state of the slice; GONE where there is none, UNREACHABLE where nobody knows.
look() {
  local told
  if told=$(state 2>&1); then
    echo "${told##*$'\n'}"
  elif [[ $told == *NOT_FOUND* || $told == *"not found"* ]]; then
    echo GONE
  else
    echo UNREACHABLE
  fi
}

# attend WORDS: what a slice that is there needs; status 1 when the command has ended well.
attend() {
  local now
  now=$(status 2> /dev/null || echo unreachable)
  case ${now##*$'\n'} in
    0) return 1 ;;
    running) ;;
    absent)
      if setup && start "$@"; then
        began=$SECONDS
      else
        note "the command could not be started; looking again"
      fi
      ;;
    2) die "the command has ended with status 2: mend what it says (tpu.sh logs), and start again" ;;
    [1-9]*)
      if ((SECONDS - began >= ${STEADY:-1800})); then failures=0; fi
      failures=$((failures + 1))
      [[ $failures -lt ${ATTEMPTS:-3} ]] || die "the command failed $failures times; see logs"
      note "the command failed ($failures of ${ATTEMPTS:-3}): starting it again"
      if start "$@"; then began=$SECONDS; fi
      ;;
    *) note "the slice does not answer; looking again" ;;
  esac
}

babysit() {
  local failures=0 began=0 now
  if [[ -n $DRY_RUN ]]; then
    echo "# not there: create; then every ${POLL:-60} s:"
    create
    state
    echo "# ACTIVE and the command is absent: set up and run"
    setup
    start "$@"
    echo "# ACTIVE and the command was started: has it ended?"
    status
    echo "# SUSPENDED or FAILED: give back, and create again"
    delete
    return
  fi
  while true; do
    now=$(look)
    case $now in
      GONE) create || note "the slice could not be asked for; trying again" ;;
      SUSPENDED | FAILED)
        note "the slice is $now: creating it again"
        delete || note "it could not be given back; trying again"
        ;;
      ACTIVE)
        if ! attend "$@"; then
          note "the command has ended with status 0"
          return
        fi
        ;;
      UNREACHABLE) note "gcloud does not answer; looking again" ;;
      *) note "$now" ;;
    esac
    sleep "${POLL:-60}"
  done
}

command=${1:-}
shift || true
[[ ${1:-} != -- ]] || shift
case $command in
  create | state | setup | status | delete)
    need PROJECT ZONE TPU_NAME
    "$command"
    ;;
  run | babysit)
    need PROJECT ZONE TPU_NAME
    [[ $# -gt 0 ]] || die "$command: give the command to run after --"
    if [[ $command == run ]]; then start "$@"; else babysit "$@"; fi
    ;;
  logs)
    need PROJECT ZONE TPU_NAME
    on "${WORKER:-0}" "tail -n 100 -F $FOLDER/log"
    ;;
  ssh)
    need PROJECT ZONE TPU_NAME
    gcloud_tpus tpu-vm ssh "$TPU_NAME" "--worker=${WORKER:-0}"
    ;;
  stop)
    need PROJECT ZONE TPU_NAME
    on 0 "kill -TERM \$(cat $FOLDER/pid)"
    ;;
  *) die "unknown command $command; see $0 --help" ;;
esac
