"""Launch scripts where every call of the cloud may fail, with its effect or without: runs end."""

import os
import subprocess

import pytest
import yaml

from tests.test_launch import LAUNCH, PLACE, TRAIN, call

# A cloud of one slice. Each look moves it on: asked for, there, and once taken away; the command
# ends at its third look. Every third call or so fails with an error of the network, half of the
# failing ones after they have worked.
CLOUD = r"""#!/usr/bin/env bash
cd "$CLOUD"
calls=$(($(cat calls 2> /dev/null || echo 0) + 1)); echo $calls > calls
RANDOM=$((SEED * 1000 + calls)); dice=$((RANDOM % 100)); late=$((RANDOM % 2))
fail() { echo "ERROR: (gcloud) There was a problem connecting: timed out" >&2; exit 1; }
((dice >= ${FAILING:-35} || late)) || fail
has() { [[ -e $1 ]]; }
case "$*" in
  *describe*)
    has slice || { echo "ERROR: (gcloud) NOT_FOUND: Resource pod was not found" >&2; exit 1; }
    age=$(($(cat slice) + 1)); echo $age > slice
    taken=$(cat taken 2> /dev/null || echo 0)
    if ((age > 6 && taken < 1)); then
      rm -f job installed; out=SUSPENDED
      has told || { echo $((taken + 1)) > taken; touch told; }
      echo 7 > slice
    elif ((age > 2)); then out=ACTIVE; else out=WAITING_FOR_RESOURCES; fi
    if has told; then out=SUSPENDED; fi ;;
  *queued-resources\ create*)
    ! has slice || { echo "ERROR: ALREADY_EXISTS" >&2; exit 1; }
    echo 0 > slice ;;
  *queued-resources\ delete*) rm -f slice told job installed ;;
  *tpu-vm\ scp*) has slice && touch copied ;;
  *"cat unireason_jax/status"*)
    if ! has job; then out=absent; else
      done=$(($(cat work 2> /dev/null || echo 0) + 1)); echo $done > work
      if has broken; then out=$(cat broken); elif ((done >= 3)); then out=0; else out=running; fi
    fi ;;
  *nohup*) has installed || exit 127; touch job; echo start >> log ;;
  *pip*) has copied && touch installed ;;
esac
((dice >= ${FAILING:-35})) || fail
[[ -z ${out:-} ]] || echo "$out"
"""


def cloud(tmp_path, seed, **more):
    for name, script in {"gcloud": CLOUD, "git": "#!/bin/bash\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "POLL": "0", "CLOUD": str(tmp_path)}
    return PLACE | env | {"SEED": str(seed), "TMPDIR": str(tmp_path)} | more


@pytest.mark.parametrize("seed", range(2))
def test_babysit_ends_with_the_run_finished_whatever_fails(seed, tmp_path):
    output = call("tpu.sh", "babysit", "--", *TRAIN, **cloud(tmp_path, seed))
    assert output.rstrip().endswith("the command has ended with status 0")
    assert (tmp_path / "taken").read_text() == "1\n"
    assert int((tmp_path / "work").read_text()) >= 3
    assert "does not answer" in output or "trying again" in output


def test_a_slice_that_cannot_be_reached_is_not_taken_for_gone(tmp_path):
    env = cloud(tmp_path, 0, FAILING="0")
    (tmp_path / "slice").write_text("3")
    (tmp_path / "taken").write_text("2")
    looks = tmp_path / "gcloud"
    looks.write_text(CLOUD.replace('case "$*" in', '((calls > 3)) || fail\ncase "$*" in'))
    output = call("tpu.sh", "babysit", "--", *TRAIN, **env)
    assert output.count("gcloud does not answer; looking again") == 3
    assert "asked for" not in output


@pytest.mark.parametrize(("status", "starts", "told"), [("2", 1, "mend what it says"),
                                                        ("1", 3, "failed 3 times")])  # fmt: skip
def test_what_the_user_has_to_mend_is_not_started_again(status, starts, told, tmp_path):
    (tmp_path / "broken").write_text(status)
    (tmp_path / "taken").write_text("2")
    env = cloud(tmp_path, 0, FAILING="0")
    assert told in call("tpu.sh", "babysit", "--", *TRAIN, status=1, **env)
    assert (tmp_path / "log").read_text().count("start") == starts


def test_failures_after_long_work_do_not_add_up(tmp_path):
    (tmp_path / "broken").write_text("134")
    (tmp_path / "taken").write_text("2")
    fake = cloud(tmp_path, 0, FAILING="0", STEADY="0")
    script = CLOUD.replace("if has broken; then", "if has broken && ((done < 5)); then")
    (tmp_path / "gcloud").write_text(script)
    output = call("tpu.sh", "babysit", "--", *TRAIN, **fake)
    assert output.count("failed (1 of 3)") == 4 and "status 0" in output


# sbatch, srun and what they use, as programs of this machine.
SLURM = {
    "sbatch": 'cat > "$CLOUD/batch-$(ls "$CLOUD" | grep -c ^batch)"; echo "$@" >> "$CLOUD/asked"; '
    "echo 41",
    "srun": 'shift; exec "$@"',
    "scontrol": '[[ $1 != show ]] || { cat "$CLOUD/facts"; exit; }\n'
    'echo "$@" >> "$CLOUD/requeued"; [[ $(wc -l < "$CLOUD/requeued") -ge ${NEEDED:-1} ]]',
    "scancel": 'kill -TERM $(cat "$CLOUD/pid")',
}


@pytest.fixture
def slurm(tmp_path):
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "activate").touch()
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CLOUD": str(tmp_path),
            "PYTHON_ENV": str(tmp_path / "env")}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "command", "status", "requeued"),
    [
        ("PreemptTime=None", "exit 0", 0, 0),
        ("PreemptTime=2026-11-28T10:00:00", "exit 0", 0, 3),
        ("PreemptTime=2026-11-28T10:00:00", "exit 2", 2, 0),
        ("PreemptTime=None", "kill -USR1 $PPID; sleep 0.3; exit 0", 0, 3),
    ],
)
def test_a_preempted_batch_queues_itself_again(facts, command, status, requeued, slurm, tmp_path):
    call("slurm.sh", "--", "bash", "-c", command, **slurm)
    (tmp_path / "facts").write_text(facts)
    (tmp_path / "scancel").write_text("#!/bin/bash\n")
    env = slurm | {"SLURM_JOB_ID": "41", "NEEDED": "3"}
    (tmp_path / "sleep").write_text("#!/bin/bash\nexec /bin/sleep 0.1\n")
    (tmp_path / "sleep").chmod(0o755)
    done = subprocess.run(["bash", tmp_path / "batch-0"], env=env, timeout=60)
    assert done.returncode == status
    seen = tmp_path / "requeued"
    assert (seen.read_text().count("requeue 41") if seen.exists() else 0) == requeued


WORDS = ["unireason", "prepare", "--input=gs://b/a b/*.parquet", "--output=gs://b/out"]


def test_shares_are_an_array_and_a_job_behind_it(slurm, tmp_path):
    told = call("shares.sh", "slurm", "--", *WORDS, SHARES="8", **slurm)
    assert told == "array 41, and the job that finishes behind it\n"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["--parsable --array=1-8", "--parsable --dependency=afterok:41"]
    for number, last in enumerate(["--share=3/8", "--finish"]):
        printed = (tmp_path / f"batch-{number}").read_text()
        (line,) = [line for line in printed.splitlines() if line.startswith("exec ")]
        shown = line.replace("exec ", "printf '%s\\n' ", 1)
        env = {"SLURM_ARRAY_TASK_ID": "3"}
        words = subprocess.run(["bash", "-c", shown], env=env, capture_output=True, text=True)
        assert words.stdout.splitlines() == [*WORDS, last]


def test_shares_are_an_indexed_job_on_a_cluster(tmp_path):
    env = {"SHARES": "16", "IMAGE": "i", "SPOT": "1", "PARALLEL": "4", "NAME": "data"}
    made = yaml.safe_load(call("shares.sh", "gke-show", "--", *WORDS, **env))
    spec = made["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 16, 4)
    (container,) = spec["template"]["spec"]["containers"]
    shell, flag, line = container["command"]
    shown = line.replace("exec ", "printf '%s\\n' ", 1)
    words = subprocess.run([shell, flag, shown], env={"JOB_COMPLETION_INDEX": "15"},
                           capture_output=True, text=True).stdout  # fmt: skip
    assert words.splitlines() == [*WORDS, "--share=16/16"]
    kubectl = tmp_path / "kubectl"
    kubectl.write_text('#!/bin/bash\nn=$(($(cat "$CLOUD/n" 2> /dev/null || echo 0) + 1))\n'
                       'echo $n > "$CLOUD/n"; cat > "$CLOUD/yaml"; ((n >= 3))\n')  # fmt: skip
    kubectl.chmod(0o755)
    env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CLOUD": str(tmp_path), "PAUSE": "0"}
    call("shares.sh", "gke-finish", "--", *WORDS, **env)
    made = yaml.safe_load((tmp_path / "yaml").read_text())
    assert made["metadata"]["name"] == "data-finish" and made["spec"]["completions"] == 1
    assert (tmp_path / "n").read_text() == "3\n"
    assert "set SHARES" in call("shares.sh", "gke", "--", "x", status=1, IMAGE="i")
    assert "Environment:" in call("shares.sh", "--help")


def test_a_job_set_needs_no_claim_and_ends_at_what_the_user_has_to_mend():
    env = {"NAME": "n", "IMAGE": "i", "TPU": "t", "TOPOLOGY": "2x2", "HOSTS": "2"}
    made = yaml.safe_load(call("gke.sh", "show", "--", *TRAIN, **env))
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert "volumes" not in job["template"]["spec"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    assert made["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    claimed = yaml.safe_load(call("gke.sh", "show", "--", *TRAIN, **env, CLAIM="runs"))
    pod = claimed["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}
    assert pod["containers"][0]["volumeMounts"] == [{"name": "runs", "mountPath": "/runs"}]
    stop = call("gke.sh", "--dry-run", "stop", **env)
    assert "-- kill" not in stop and "os.kill(1, signal.SIGTERM)" in stop
    assert LAUNCH.is_dir()
