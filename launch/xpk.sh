#!/usr/bin/env bash
# A workload on a cluster that XPK manages.
#
#   launch/xpk.sh [--dry-run] COMMAND
#
#   create -- WORDS   submits a workload that runs a command on every host
#   list              workloads of the cluster
#   delete            removes the workload
#
# Environment:
#   PROJECT, ZONE, CLUSTER   where
#   NAME                     of the workload
#   IMAGE                    from launch/Dockerfile, with its registry
#   TPU_TYPE, SLICES         such as v5p-32, and how many, 1 by default
#   LIBTPU_INIT_ARGS         what the compiler is told, by default nothing
#   RESTARTS                 restarts after a failure or a lost slice, 100 by default
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

xpk_workload() {
  need PROJECT ZONE CLUSTER
  run xpk workload "$@" "--cluster=$CLUSTER" "--project=$PROJECT" "--zone=$ZONE"
}

command=${1:-}
shift || true
[[ ${1:-} != -- ]] || shift
case $command in
  create)
    [[ $# -gt 0 ]] || die "create: give the command to run after --"
    need NAME IMAGE TPU_TYPE
    xpk_workload create "--workload=$NAME" "--docker-image=$IMAGE" "--tpu-type=$TPU_TYPE" \
      "--num-slices=${SLICES:-1}" "--max-restarts=${RESTARTS:-100}" \
      "--command=$(show env "LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}" "$@")"
    ;;
  list) xpk_workload list ;;
  delete)
    need NAME
    xpk_workload delete "--workload=$NAME"
    ;;
  *) die "unknown command $command; see $0 --help" ;;
esac
