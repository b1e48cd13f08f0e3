"""The launch scripts: what they would run, said exactly, and babysitting with a simulated cloud."""

import fnmatch
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
PLACE = {"PROJECT": "proj", "ZONE": "zone-a", "TPU_NAME": "pod", "ACCELERATOR": "v5p-32"}
WHERE = "--project=proj --zone=zone-a"
TRAIN = ["unireason", "train", "--config=configs/tiny.py", "--workdir=/runs/a b"]


def call(script, *arguments, status=0, **environment):
    """Output of a script with only these variables set besides PATH."""
    env = {"PATH": os.environ["PATH"], "HOME": "/tmp"} | environment
    done = subprocess.run(
        [LAUNCH / script, *arguments], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def test_a_slice_is_asked_for_as_a_queued_resource():
    ask = "gcloud compute tpus queued-resources create pod --node-id=pod"
    size = "--accelerator-type=v5p-32 --runtime-version=v2-alpha-tpuv5"
    assert call("tpu.sh", "--dry-run", "create", **PLACE) == f"{ask} {size} {WHERE}\n"
    spot = call("tpu.sh", "--dry-run", "create", **PLACE, SPOT="1", RUNTIME="image")
    assert spot == f"{ask} {size.replace('v2-alpha-tpuv5', 'image')} --spot {WHERE}\n"
    assert "set RUNTIME" in call("tpu.sh", "--dry-run", "create", status=1,
                                 **PLACE | {"ACCELERATOR": "v99-8"})  # fmt: skip


def test_a_command_survives_quoting_and_disconnection():
    line = call("tpu.sh", "--dry-run", "run", "--", *TRAIN, **PLACE)
    assert line.startswith("gcloud compute tpus tpu-vm ssh pod --worker=all '--command=cd ")
    assert "nohup setsid bash -c" in line and line.rstrip().endswith(WHERE)
    # What a worker's shell makes of it: the command with its one space, its pid and its status.
    remote = subprocess.run(
        ["bash", "-c", f'for word in {line.strip()}; do echo "$word"; done'],
        capture_output=True,
        text=True,
    ).stdout
    command = next(part for part in remote.splitlines() if part.startswith("--command="))
    assert "unireason train --config=configs/tiny.py" in command and "/runs/a b" in command


def test_the_started_command_leaves_output_pid_and_status(tmp_path):
    folder = tmp_path / "unireason_jax"
    folder.mkdir()
    fake = tmp_path / "gcloud"
    fake.write_text('#!/bin/bash\nfor a; do [[ $a == --command=* ]] && c=${a#--command=}; done\n'
                    'cd "$HOME" && bash -c "$c"\n')  # fmt: skip
    fake.chmod(0o755)
    env = PLACE | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    call("tpu.sh", "run", "--", "bash", "-c", 'echo "two  words"; sleep 0.4; exit 3', **env)
    states = set()
    while states.isdisjoint({"3", "absent"}) and len(states) < 3:
        states.add(call("tpu.sh", "status", **env).strip())
    assert states <= {"running", "3"} and "3" in states
    assert (folder / "log").read_text() == "two  words\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("state", ["queued-resources describe pod", "'--format=value(state.state)'"]),
        ("delete", ["queued-resources delete pod --force --quiet"]),
        ("logs", ["ssh pod --worker=0", "tail -n 100 -F unireason_jax/log"]),
        ("stop", ["--worker=0", "kill -TERM"]),
        ("ssh", ["tpu-vm ssh pod --worker=0"]),
        ("setup", ["git -C", "scp", "--worker=all", "constraints/py312.txt"]),
    ],
)
def test_the_other_commands_of_a_slice(command, words):
    printed = call("tpu.sh", "--dry-run", command, **PLACE)
    assert all(word in printed for word in [*words, WHERE]), printed


def test_babysitting_recreates_a_preempted_slice_and_ends_with_the_command(tmp_path):
    fake = tmp_path / "gcloud"
    fake.write_text(FAKE_CLOUD)
    fake.chmod(0o755)
    env = PLACE | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "POLL": "0", "CLOUD": str(tmp_path)}
    output = call("tpu.sh", "babysit", "--", *TRAIN, **env, TMPDIR=str(tmp_path))
    done = (tmp_path / "calls").read_text().split()
    assert done == ["create", "scp", "setup", "run", "delete", "create", "scp", "setup", "run"]
    assert "SUSPENDED: creating it again" in output and "ended with status 0" in output


# Looks go by in this order: not there, waiting, active (started), active (running), suspended,
# not there, active (started), active (ended). What changes something is written to `calls`.
FAKE_CLOUD = r"""#!/usr/bin/env bash
look=$(cat "$CLOUD/look" 2> /dev/null || echo 0)
case "$*" in
  *describe*)
    echo $((look + 1)) > "$CLOUD/look"
    states=(GONE WAITING_FOR_RESOURCES ACTIVE ACTIVE SUSPENDED GONE ACTIVE ACTIVE)
    state=${states[$look]}
    [[ $state != GONE ]] || { echo "NOT_FOUND: Resource pod was not found" >&2; exit 1; }
    echo "$state" ;;
  *queued-resources\ create*) echo create >> "$CLOUD/calls" ;;
  *queued-resources\ delete*) echo delete >> "$CLOUD/calls" ;;
  *tpu-vm\ scp*) echo scp >> "$CLOUD/calls" ;;
  *"cat unireason_jax/status"*)
    answers=(- - - absent running - - absent 0)
    echo "${answers[$look]}" ;;
  *nohup*) echo run >> "$CLOUD/calls" ;;
  *pip*) echo setup >> "$CLOUD/calls" ;;
esac
"""


def test_a_job_set_is_valid_yaml_with_every_size():
    env = {"NAME": "big", "IMAGE": "registry/image:tpu", "TPU": "tpu-v5p-slice", "SPOT": "1",
           "TOPOLOGY": "2x2x4", "HOSTS": "4", "SLICES": "2", "CLAIM": "runs"}  # fmt: skip
    made = yaml.safe_load(call("gke.sh", "show", "--", *TRAIN, 'say "hi"', **env))
    job = made["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]
    assert job["replicas"] == 2 and spec["parallelism"] == spec["completions"] == 4
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["command"] == [*TRAIN, 'say "hi"']
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    printed = call("gke.sh", "--dry-run", "create", "--", *TRAIN, **env)
    assert printed.startswith("kubectl apply -f - << 'YAML'\napiVersion: jobset")
    logs = call("gke.sh", "--dry-run", "logs", **env, HOST="3")
    assert "jobset-name=big,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-comp" in logs
    assert call("gke.sh", "--dry-run", "delete", **env) == "kubectl delete jobset big\n"


def test_an_xpk_workload():
    env = PLACE | {"CLUSTER": "c", "NAME": "w", "IMAGE": "i:tpu", "TPU_TYPE": "v5p-32"}
    where = "--cluster=c --project=proj --zone=zone-a"
    assert call(
        "xpk.sh",
        "--dry-run",
        "create",
        "--",
        *TRAIN[:3],
        **env,
        SLICES="2",
        LIBTPU_INIT_ARGS="--a=1",
    ) == (
        "xpk workload create --workload=w --docker-image=i:tpu --tpu-type=v5p-32 --num-slices=2 "
        f"--max-restarts=100 '--command=env LIBTPU_INIT_ARGS=--a=1 {' '.join(TRAIN[:3])}' {where}\n"
    )
    listed = call("xpk.sh", "--dry-run", "list", **env)
    assert listed == f"xpk workload list {where}\n"


GCLUSTER = {"PROJECT": "proj", "LOCATION": "zone-a", "CLUSTER": "c", "NAME": "w", "IMAGE": "i:tpu",
            "COMPUTE_TYPE": "v5p-32", "TOPOLOGY": "2x2x4"}  # fmt: skip


def test_a_workload_of_the_cluster_toolkit():
    where = "--cluster=c --project=proj --location=zone-a"
    told = {"SLICES": "2", "LIBTPU_INIT_ARGS": "--a=1"}
    made = call("gcluster.sh", "--dry-run", "create", "--", *TRAIN, **GCLUSTER, **told)
    assert made == (
        "gcluster job submit --name=w --image=i:tpu --compute-type=v5p-32 --topology=2x2x4 "
        "--num-slices=2 --restarts=100 "
        + shlex.quote(
            "--command=env LIBTPU_INIT_ARGS=--a=1 unireason train --config=configs/tiny.py "
            "'--workdir=/runs/a b'"
        ).replace("'\"'\"'", "'\\''")
        + f" {where}\n"
    )
    other = {"list": "list", "logs": "logs w -f", "delete": "cancel w"}
    for command, words in other.items():
        line = call("gcluster.sh", "--dry-run", command, **GCLUSTER)
        assert line == f"gcluster job {words} {where}\n"


def test_a_workload_is_submitted_again_when_a_call_fails(tmp_path):
    fake = tmp_path / "gcluster"
    fake.write_text(
        '#!/bin/bash\necho "$@" >> "$CALLS"\n[[ $(wc -l < "$CALLS") -gt 2 ]] || exit 1\n'
    )
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    call("gcluster.sh", "create", "--", "true", **GCLUSTER | env, PAUSE="0")
    lines = (tmp_path / "calls").read_text().splitlines()
    assert len(lines) == 3 and len(set(lines)) == 1
    assert lines[0].startswith("job submit --name=w --image=i:tpu")
    env["CALLS"] = str(tmp_path / "other")
    call("gcluster.sh", "create", "--", "true", **GCLUSTER | env, PAUSE="0", TRIES="2", status=1)


def test_the_image_is_pinned_and_copies_what_is_there():
    root = LAUNCH.parent
    lines = (LAUNCH / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    lines = [line.split() for line in lines if line and not line.startswith("#")]
    (base,) = (words[1].partition("=")[2] for words in lines if words[:1] == ["ARG"]
               and words[1].startswith("BASE="))  # fmt: skip
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    assert [words[1] for words in lines if words[0] == "FROM"] == ["${BASE}"] * 2
    ignored = [line for line in (root / ".dockerignore").read_text().splitlines()
               if line and not line.startswith("#")]  # fmt: skip
    copied = [
        name for words in lines if words[0] == "COPY" and not words[1].startswith("--from=")
        for name in words[1:-1]
    ]  # fmt: skip
    assert {".git", "runs", "tests"} <= set(ignored)
    for name in copied:
        assert (root / name).exists(), name
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name
    for needed in ("unireason_jax", "configs", "launch", "constraints"):  # by `COPY . .`
        assert not any(fnmatch.fnmatch(needed, pattern) for pattern in ignored), needed
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= set(copied)
    installs = [" ".join(words) for words in lines if "install" in words]
    limits = re.search(r"-c (\S+)", installs[0])[1]
    pins = (root / limits).read_text()
    assert re.search(r"^libtpu==[\d.]+$", pins, re.M) and re.search(r"^jax==[\d.]+$", pins, re.M)
    assert all("-c " in line or "--no-deps" in line for line in installs)
    python = re.match(r"python:3\.(\d+)", base)[1]
    assert limits == "constraints/py312.txt" and int(python) >= 12


@pytest.mark.parametrize("wanted", ["", "--a=1 --b=2"])
def test_a_compiler_is_told_what_the_user_says_and_nothing_else(wanted):
    env = {"NAME": "big", "IMAGE": "i", "TPU": "tpu-v6e-slice", "TOPOLOGY": "4x4", "HOSTS": "4"}
    told = {"LIBTPU_INIT_ARGS": wanted} if wanted else {}
    made = yaml.safe_load(call("gke.sh", "show", "--", "true", **env | told))
    spec = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["env"] == [{"name": "LIBTPU_INIT_ARGS", "value": wanted}]
    place = PLACE | {"ACCELERATOR": "v6e-16"} | told
    run = call("tpu.sh", "--dry-run", "run", "--", "true", **place)
    assert ("LIBTPU_INIT_ARGS" in run) == bool(wanted)
    assert all(flag in run for flag in wanted.split())
    place = PLACE | {"CLUSTER": "c", "NAME": "w", "IMAGE": "i", "TPU_TYPE": "v6e-16"} | told
    line = call("xpk.sh", "--dry-run", "create", "--", "true", **place)
    assert all(flag in line for flag in wanted.split())
    assert bool(wanted) or "LIBTPU_INIT_ARGS= true" in line
    line = call("gcluster.sh", "--dry-run", "create", "--", "true", **GCLUSTER | told)
    assert all(flag in line for flag in wanted.split())


def test_a_slurm_batch_gives_a_task_all_gpus_of_its_node():
    printed = call("slurm.sh", "--dry-run", "--", *TRAIN, NODES="4", GPUS="4", PARTITION="gpu")
    lines = printed.splitlines()
    assert lines[0] == "sbatch << 'BATCH'" and lines[-1] == "BATCH"
    for line in ("--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=4", "--partition=gpu"):
        assert f"#SBATCH {line}" in lines
    assert "export JAX_LOCAL_DEVICE_IDS=0,1,2,3" in lines
    assert "srun --kill-on-bad-exit=1 unireason train --config=configs/tiny.py " in printed
    script = "\n".join(lines[1:-1])
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_sweep_runs_here_or_on_a_slice_each():
    here = call("sweep.sh", "--dry-run", "here", "0", "2", "--", *TRAIN[:3])
    wanted = "unireason train --config=configs/tiny.py --sweep_index="
    assert here.splitlines() == [f"{wanted}{member}" for member in range(3)]
    slices = call("sweep.sh", "--dry-run", "slices", "3", "4", "--", *TRAIN[:3], **PLACE)
    assert "TPU_NAME=pod-4" in slices and slices.rstrip().endswith(f"{wanted}4")
    problem = call("sweep.sh", "here", "0", "1", "--", "false", status=1)
    assert "these members failed: 0 1" in problem


def test_the_compile_reports_and_the_gpu_bench_say_what_they_would_run(tmp_path):
    lines = call("compile_reports.sh", "--dry-run", "all", PYTHON="py").splitlines()
    recipe = "--config=configs/unireason_stage2.py --program=train"
    step = f"py -m unireason_jax.compile_check --quick {recipe}"
    where = "--topology=v6e:16x16 --out=launch/compile_reports --config.mesh.preset=v6e"
    assert any(line.startswith(f"{step} {where} --config.data.rows=128") for line in lines)
    slow = call("compile_reports.sh", "--dry-run", "all", PYTHON="py", QUICK="")
    assert f"py -m unireason_jax.compile_check {recipe} {where}" in slow and "quick" not in slow
    assert lines[-1] == "py -m unireason_jax.compile_check --table=launch/compile_reports"
    bench = call("gpu_bench.sh", "--dry-run", "run", "--steps", "3", PYTHON="py", GPUS="2")
    assert bench.startswith("py -m unireason_jax.bench step --config configs/unireason_stage2.py")
    assert "--steps 3 --set" in bench and "data.rows=8 mesh.preset=h100" in bench
    adapters = call("gpu_bench.sh", "--dry-run", "lora", PYTHON="py", GPUS="1", ROWS="1")
    assert "--config configs/bagel_finetune.py" in adapters and "lora.rank=16" in adapters
    assert "llm.layers" not in adapters and "data.rows=1 mesh.preset=h100" in adapters
    # A program that fails is named after the others were tried, and the table is written.
    py = tmp_path / "py"
    py.write_text('#!/bin/bash\n[[ $* == *--table* ]] && echo "| a table |"; [[ $* != *v6e* ]]\n')
    py.chmod(0o755)
    told = call("compile_reports.sh", "all", status=1, PYTHON=str(py), REPORTS=str(tmp_path))
    assert (
        told
        == f"error: these programs were not compiled or do not fit:{4 * ' v6e:16x16'} v6e:8x8\n"
    )
    assert (tmp_path / "README.md").read_text().endswith("\n| a table |\n")


def test_what_is_missing_is_named():
    assert "set PROJECT" in call("tpu.sh", "--dry-run", "create", status=1)
    assert "set IMAGE" in call("gke.sh", "show", "--", "true", status=1, NAME="n")
    assert "command to run" in call("slurm.sh", "--dry-run", status=1)
    assert "unknown command fly" in call("tpu.sh", "fly", status=1, **PLACE)
    for script in ("tpu.sh", "gke.sh", "xpk.sh", "gcluster.sh", "slurm.sh", "sweep.sh"):
        assert "Environment:" in call(script, "--help")


def test_the_local_launcher_joins_processes_and_passes_status_and_output():
    local = [sys.executable, LAUNCH / "local.py"]
    shown = subprocess.run(
        [*local, "--processes", "2", "--devices", "4", "--dry-run", "--", "python", "x.py"],
        capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert len(shown) == 2 and "JAX_PROCESS_ID=1" in shown[1] and shown[1].endswith("python x.py")
    assert "--xla_force_host_platform_device_count=4" in shown[0]
    code = (
        "import os, sys, time; me = os.environ['JAX_PROCESS_ID']; print('I am', me, flush=True);"
        "sys.exit(7) if me == '1' else time.sleep(60)"
    )
    run = [*local, "--grace", "0.5", "--", sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=50)
    assert done.returncode == 7
    assert {"[0] I am 0", "[1] I am 1"} == set(done.stdout.splitlines())
