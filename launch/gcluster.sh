#!/usr/bin/env bash
# A workload on a cluster that Google's Cluster Toolkit manages, as a JobSet admitted by Kueue.
#
#   launch/gcluster.sh [--dry-run] COMMAND
#
#   create -- WORDS   submits a workload that runs a command on every host
#   list              workloads of the cluster
#   logs              follows the workload
#   delete            cancels the workload
#
# Environment:
#   PROJECT, LOCATION, CLUSTER   where; the location is a zone or a region
#   NAME                     of the workload
#   IMAGE                    from launch/Dockerfile, with its registry
#   COMPUTE_TYPE, TOPOLOGY   of a slice, such as v5p-32 and 2x2x4
#   SLICES                   how many, 1 by default
#   LIBTPU_INIT_ARGS         what the compiler is told, by default nothing
#   RESTARTS                 restarts after a failure or a lost slice, 100 by default
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

gcluster_job() {
  need PROJECT LOCATION CLUSTER
  run gcluster job "$@" "--cluster=$CLUSTER" "--project=$PROJECT" "--location=$LOCATION"
}

command=${1:-}
shift || true
[[ ${1:-} != -- ]] || shift
case $command in
  create)
    [[ $# -gt 0 ]] || die "create: give the command to run after --"
    need NAME IMAGE COMPUTE_TYPE TOPOLOGY
    again gcluster_job submit "--name=$NAME" "--image=$IMAGE" "--compute-type=$COMPUTE_TYPE" \
      "--topology=$TOPOLOGY" "--num-slices=${SLICES:-1}" "--restarts=${RESTARTS:-100}" \
      "--command=$(show env "LIBTPU_INIT_ARGS=${LIBTPU_INIT_ARGS:-}" "$@")"
    ;;
  list) gcluster_job list ;;
  logs)
    need NAME
    gcluster_job logs "$NAME" -f
    ;;
  delete)
    need NAME
    gcluster_job cancel "$NAME"
    ;;
  *) die "unknown command $command; see $0 --help" ;;
esac
