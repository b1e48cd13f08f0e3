"""Processes that talk, fail and hang together: small programs that train nothing."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from launch.local import LocalJob
from unireason_jax.pods import pod, watchdog

REPOSITORY = Path(__file__).resolve().parents[2]
START = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from unireason_jax.pods import batches, pod, sharding, watchdog
sharding.initialize_distributed()
me = jax.process_index()
mesh = sharding.make_mesh({"data": jax.device_count()})
total = jax.jit(jnp.sum, out_shardings=sharding.replicated(mesh))
def meet():
    batch = batches.global_batch(mesh, {"x": np.full((1, 4), me + 1.0, np.float32)})
    return float(total(batch["x"]))
"""


def together(program, processes=2):
    """(exit statuses, output by process) of a program in joined processes of one device."""
    output = [""] * processes

    def sink(number, line):
        output[number] += line

    job = LocalJob(
        [sys.executable, "-c", START + textwrap.dedent(program)],
        processes=processes,
        devices=1,
        sink=sink,
        directory=REPOSITORY,
    )
    return job.wait(timeout=500), output


def test_processes_gather_values_and_compute_together():
    statuses, output = together("""
        with pod.ending_together():
            print(pod.gather("names", {"me": me}), pod.gather("names", me * 2), meet())
    """)
    assert statuses == [0, 0]
    assert all("[{'me': 0}, {'me': 1}] [0, 2] 12.0" in text for text in output)
    assert pod.gather("alone", {"a": 1}) == [{"a": 1}]


def test_what_is_kept_is_made_once_and_what_differs_ends_the_job(tmp_path):
    """The first process makes a file alone; the others find it. Another value is told by all."""
    statuses, output = together(f"""
        from pathlib import Path
        kept = Path({str(tmp_path / "kept")!r})
        def make():
            found = kept.exists()
            kept.write_text("made")
            return found
        with pod.ending_together():
            print("found it:", pod.first_alone("a file", make))
            pod.same("number", "7", "nothing to mend")
            try:
                pod.same("plan", f"plan {{me}}", "give all hosts the same data")
            except ValueError as error:
                print(error)
    """)
    assert statuses == [0, 0]
    assert "found it: False" in output[0] and "found it: True" in output[1]
    told = "process 1 has another plan than process 0: give all hosts the same data"
    assert all(told in text and "number" not in text for text in output)
    assert pod.first_alone("alone", lambda: 5) == 5
    pod.same("alone", "any", "nothing to mend")


@pytest.mark.parametrize("culprit", [0, 1])
def test_an_error_on_one_host_ends_all_and_is_what_they_show(culprit):
    began = time.monotonic()
    statuses, output = together(f"""
        with pod.ending_together():
            meet()
            if me == {culprit}:
                raise ValueError("shard 7 is broken")
            while True:  # waits for the other in a collective
                meet()
    """)
    assert statuses == [1, 1] and time.monotonic() - began < 300
    assert f"PROCESS {culprit} OF 2 FAILED" in output[culprit]
    assert f"ends because PROCESS {culprit} FAILED" in output[1 - culprit]
    for text in output:
        assert "ValueError: shard 7 is broken" in text and "preempt" not in text.lower()


def test_a_hung_step_shows_stacks_everywhere_and_ends_the_job():
    statuses, output = together("""
        def waits_for_storage():
            time.sleep(1000)
        with pod.ending_together(), watchdog.Watchdog(1.0, give_up=pod.fail) as dog:
            dog.pause()
            meet()
            dog.note("step 3")
            meet() if me == 0 else waits_for_storage()
    """)
    assert statuses == [1, 1]
    assert "process 1 of 2: step 3 has been running for" in output[1]
    assert "in waits_for_storage" in output[1] and "in meet" in output[0]
    assert any("FAILED, THE JOB ENDS" in text and "step 3" in text for text in output)


def test_a_watchdog_leaves_a_moving_loop_alone_and_names_what_hangs(tmp_path):
    reasons = []
    with (tmp_path / "stacks").open("w+") as file:
        with watchdog.Watchdog(0.4, give_up=reasons.append, file=file) as dog:
            for step in range(8):
                dog.note(f"step {step}")
                time.sleep(0.1)
            dog.pause()
            time.sleep(0.8)
            assert not file.tell()
            dog.note("evaluation at step 8")
            deadline = time.monotonic() + 60
            while not reasons and time.monotonic() < deadline:
                time.sleep(0.05)
        file.seek(0)
        text = file.read()
    assert text.count("process 0 of 1: evaluation at step 8 has been running") == watchdog.REPORTS
    assert "test_a_watchdog_leaves_a_moving_loop_alone" in text
    assert len(reasons) == 1 and reasons[0].startswith("evaluation at step 8 has been running")


def test_a_process_that_was_paused_is_not_taken_for_hung():
    program = """
        import time
        from unireason_jax.pods.watchdog import Watchdog
        with Watchdog(1.0, give_up=print) as dog:
            dog.note("step 3")
            print("runs", flush=True)
            time.sleep(0.5)
            dog.note("step 4")
            time.sleep(0.5)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "runs\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.5)  # longer than the three reports after which a hung job is given up
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == ""


def test_a_folder_that_another_process_does_not_see_is_named_at_once(tmp_path, monkeypatch):
    """Of two processes the second sees another folder under the name."""
    monkeypatch.setattr(pod, "_SIGHT", 0.2)
    said = {}

    def gather(name, value, **_):
        said[name] = value
        return (
            [value, pod._sees(tmp_path / "other", said_word())]
            if name.startswith("see")
            else [value]
        )

    def said_word():
        return next(value[1] for name, value in said.items() if name.startswith("hold"))

    monkeypatch.setattr(pod, "gather", gather)
    with (
        pytest.raises(ValueError, match=r"^process 1 does not see .* as process 0"),
        pod.holding(tmp_path / "mine", "unireason train", seen=True),
    ):
        pytest.fail("went on")
    with pod.holding(tmp_path / "mine", "unireason train"):
        pass
    assert said[f"see {tmp_path / 'mine'}"] is True
