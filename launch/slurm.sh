#!/usr/bin/env bash
# GPU nodes under SLURM: one task a node, which drives all GPUs of its node.
#
#   launch/slurm.sh [--dry-run] -- WORDS
#
# Submits a batch job that runs a command on every node. Two minutes before the time limit, or when
# the job is preempted, it gets SIGTERM: it saves, and the job queues itself again and goes on (also
# where SLURM tells the tasks only, and they have ended well before it ends the job). A failed task
# ends the others.
#
# Environment:
#   NODES             nodes, 1 by default
#   GPUS              GPUs of one node, 8 by default
#   HOURS             time limit, 24 by default
#   NAME              of the job, unireason by default
#   PARTITION, ACCOUNT   where the site asks for them
#   PYTHON_ENV        virtual environment to activate, .venv by default
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/lib.sh
source "$here/lib.sh"

batch() {
  cat << BATCH
#!/usr/bin/env bash
#SBATCH --job-name=${NAME:-unireason}
#SBATCH --nodes=${NODES:-1}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=${GPUS:-8}
#SBATCH --time=${HOURS:-24}:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
${PARTITION:+#SBATCH --partition=$PARTITION}
${ACCOUNT:+#SBATCH --account=$ACCOUNT}
source ${PYTHON_ENV:-.venv}/bin/activate
export JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${GPUS:-8} - 1)))
told=
tell() { told=1; scancel --signal=TERM "\$SLURM_JOB_ID"; }
preempted() { scontrol show job "\$SLURM_JOB_ID" | grep -q "PreemptTime=[0-9]"; }
trap tell USR1
trap 'told=1' TERM
srun --kill-on-bad-exit=1 $(show "$@") &
wait \$!
status=\$?
while [[ -n \$told ]] && kill -0 \$! 2> /dev/null; do wait \$!; status=\$?; done
if [[ \$status == 0 ]] && { [[ -n \$told ]] || preempted; }; then
  for try in 1 2 3 4 5; do
    scontrol requeue "\$SLURM_JOB_ID" && break
    sleep \$try
  done
fi
exit \$status
BATCH
}

[[ ${1:-} != -- ]] || shift
[[ $# -gt 0 ]] || die "give the command to run after --"
if [[ -n $DRY_RUN ]]; then
  printf '%s\n' "sbatch << 'BATCH'" "$(batch "$@")" BATCH
else
  sbatch <<< "$(batch "$@")"
fi
