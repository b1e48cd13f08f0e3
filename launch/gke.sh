#!/usr/bin/env bash
# A JobSet on a GKE cluster: one job a slice, one pod a host, restarted together when one fails.
#
#   launch/gke.sh [--dry-run] COMMAND
#
#   create -- WORDS   applies the JobSet that runs a command on every host
#   show -- WORDS     prints the JobSet only
#   state             pods and where they are
#   logs              follows slice 0, host 0 (SLICE, HOST)
#   stop              SIGTERM to host 0: all save, and the job set ends with success
#   delete            removes it
#
# Environment:
#   NAME              of the job set
#   IMAGE             from launch/Dockerfile, with its registry
#   TPU, TOPOLOGY     such as tpu-v5p-slice and 2x2x4 (labels of the node pool)
#   SLICES, HOSTS     slices, 1 by default, and hosts of one slice
#   CHIPS             chips of one host, 4 by default
#   CLAIM             persistent volume claim that all hosts mount at /runs, for a workdir there;
#                     none is needed where the workdir is in a bucket (gs://...)
#   RESTARTS          restarts after a failure or a lost slice, 100 by default; none after status 2,
#                     by which a command says that its user has to mend something
#   SPOT=1            on spot nodes
#   LIBTPU_INIT_ARGS  what the compiler is told, by default nothing
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

# json WORDS: a JSON list, which YAML reads too.
json() {
  local word list=""
  for word in "$@"; do
    word=${word//\\/\\\\}
    list+="\"${word//\"/\\\"}\", "
  done
  echo "[${list%, }]"
}

job_set() {
  need NAME IMAGE TPU TOPOLOGY HOSTS
  local spot="" mounts="" volumes=""
  if [[ -n ${SPOT:-} ]]; then spot='cloud.google.com/gke-spot: "true"'; fi
  if [[ -n ${CLAIM:-} ]]; then
    mounts="volumeMounts: [{name: runs, mountPath: /runs}]"
    volumes="volumes: [{name: runs, persistentVolumeClaim: {claimName: $CLAIM}}]"
  fi
  cat << YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-100}
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: ${SLICES:-1}
      template:
        spec:
          parallelism: $HOSTS
          completions: $HOSTS
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: train, operator: In, values: [2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $TPU
                cloud.google.com/gke-tpu-topology: $TOPOLOGY
                $spot
              containers:
                - name: train
                  image: $IMAGE
                  command: $(json "$@")
                  env: [{name: LIBTPU_INIT_ARGS, value: "${LIBTPU_INIT_ARGS:-}"}]
                  ports: [{containerPort: 8471}, {containerPort: 8482}, {containerPort: 8080}]
                  securityContext: {privileged: true}
                  resources:
                    requests: {google.com/tpu: ${CHIPS:-4}}
                    limits: {google.com/tpu: ${CHIPS:-4}}
                  $mounts
              $volumes
YAML
}

pod() {
  echo "jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=${SLICE:-0},\
batch.kubernetes.io/job-completion-index=${HOST:-0}"
}

command=${1:-}
shift || true
[[ ${1:-} != -- ]] || shift
case $command in
  create | show)
    [[ $# -gt 0 ]] || die "$command: give the command to run after --"
    made=$(job_set "$@")
    if [[ $command == show ]]; then
      echo "$made"
    elif [[ -n $DRY_RUN ]]; then
      printf '%s\n' "kubectl apply -f - << 'YAML'" "$made" YAML
    else
      apply() { kubectl apply -f - <<< "$made"; }
      again apply ""
    fi
    ;;
  state)
    need NAME
    run kubectl get pods -o wide -l "jobset.sigs.k8s.io/jobset-name=$NAME"
    ;;
  logs)
    need NAME
    run kubectl logs -f --tail=100 -l "$(pod)"
    ;;
  stop)
    need NAME
    tell="import os, signal; os.kill(1, signal.SIGTERM)" # a slim image has no kill
    run bash -c "kubectl exec \$(kubectl get pods -o name -l $(pod)) -- python -c '$tell'"
    ;;
  delete)
    need NAME
    run kubectl delete jobset "$NAME"
    ;;
  *) die "unknown command $command; see $0 --help" ;;
esac
