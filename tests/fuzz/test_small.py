"""Every kind of fuzz at its small size, each in a process of its own (its memory is measured)."""

import importlib
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.fuzz.__main__ import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_hostile_hurts(kind):
    size = importlib.import_module(f"tests.fuzz.{kind}").SMALL
    command = [sys.executable, "-m", "tests.fuzz", kind, "--seed=1", f"--size={size}"]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "nothing failed" in done.stdout
