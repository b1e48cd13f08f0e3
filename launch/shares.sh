#!/usr/bin/env bash
# `unireason prepare` or `encode` on many machines: a share of the shards on each, then --finish.
#
#   launch/shares.sh [--dry-run] COMMAND -- WORDS
#
#   gke          applies an Indexed Job on a GKE cluster: pod i of SHARES runs WORDS --share i/SHARES
#   gke-finish   applies a Job of one pod that runs WORDS --finish; when the first has succeeded
#   gke-show     prints the Indexed Job only
#   slurm        submits an array of SHARES tasks, and a job behind it that finishes
#
# WORDS are the whole command but for its share, the same each time: unireason prepare --input=...
# --tokenizer=... --output=gs://... A share whose machine is taken away is started again and goes on.
#
# Environment:
#   SHARES            machines
#   NAME              of the jobs, unireason by default
#   IMAGE, CPUS, MEMORY   GKE: the image, and what a pod asks for, 8 and 16Gi by default
#   PARALLEL          GKE: pods at a time, SHARES by default
#   SPOT=1            GKE: on spot nodes
#   HOURS, PARTITION, ACCOUNT, PYTHON_ENV   SLURM: as those of slurm.sh
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

# json TEXT: a JSON string, which YAML reads too.
json() {
  local text=${1//\\/\\\\}
  echo "\"${text//\"/\\\"}\""
}

# job NAME COMPLETIONS LINE: a Job whose pods run a shell line.
job() {
  need IMAGE
  local spot=""
  if [[ -n ${SPOT:-} ]]; then spot='nodeSelector: {cloud.google.com/gke-spot: "true"}'; fi
  cat << YAML
apiVersion: batch/v1
kind: Job
metadata:
  name: $1
spec:
  completionMode: Indexed
  completions: $2
  parallelism: ${PARALLEL:-$2}
  backoffLimitPerIndex: 10
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget}]
  template:
    spec:
      restartPolicy: Never
      $spot
      containers:
        - name: share
          image: $IMAGE
          command: ["bash", "-c", $(json "exec $3")]
          resources:
            requests: {cpu: ${CPUS:-8}, memory: ${MEMORY:-16Gi}}
YAML
}

# batch NAME LINE: a SLURM job of one task.
batch() {
  cat << BATCH
#!/usr/bin/env bash
#SBATCH --job-name=$1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=${CPUS:-8}
#SBATCH --time=${HOURS:-24}:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
source ${PYTHON_ENV:-.venv}/bin/activate
exec $2
BATCH
}

# submit BATCH WORDS: gives a batch to sbatch with more words; the number of the job.
submit() {
  if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "$(show sbatch --parsable "${@:2}") << 'BATCH'" "$1" BATCH >&2
    echo JOB
  else
    sbatch --parsable "${@:2}" <<< "$1"
  fi
}

apply() {
  if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "kubectl apply -f - << 'YAML'" "$1" YAML
  else
    kubectl apply -f - <<< "$1"
  fi
}

command=${1:-}
shift || true
[[ ${1:-} != -- ]] || shift
[[ $# -gt 0 ]] || die "$command: give the command to run after --"
name=${NAME:-unireason} words=$(show "$@")
case $command in
  gke | gke-show)
    need SHARES
    made=$(job "$name" "$SHARES" "$words --share=\$((JOB_COMPLETION_INDEX + 1))/$SHARES")
    if [[ $command == gke-show ]]; then echo "$made"; else again apply "$made"; fi
    ;;
  gke-finish)
    made=$(PARALLEL=1 job "$name-finish" 1 "$words --finish")
    again apply "$made"
    ;;
  slurm)
    need SHARES
    number=$(submit "$(batch "$name" "$words --share=\$SLURM_ARRAY_TASK_ID/$SHARES")" \
      "--array=1-$SHARES")
    submit "$(batch "$name-finish" "$words --finish")" "--dependency=afterok:$number" > /dev/null
    echo "array $number, and the job that finishes behind it"
    ;;
  *) die "unknown command $command; see $0 --help" ;;
esac
