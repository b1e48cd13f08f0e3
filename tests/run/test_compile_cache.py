"""Compiled programs are kept once for all verbs, where the user wants them, per processor."""

import os
import subprocess
import sys

import pytest
from etils import epath

from unireason_jax.run import compile_cache

PROGRAM = """
import sys
import jax
from unireason_jax.run import compile_cache

before = jax.jit(lambda x: x - 1)(3.0)  # JAX decides here whether there is a cache
compile_cache.share()
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event.rpartition("/")[2]))
jax.jit(lambda x: x * 2 + 1)(float(sys.argv[1]))
print(seen.count("cache_hits"), seen.count("cache_misses"))
"""


def compiled(cache, argument):
    """(programs found, programs compiled) by a process that jits one function."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERS"))}
    env |= {"UNIREASON_CACHE": str(cache), "XLA_FLAGS": ""}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], env=env, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return tuple(map(int, found.stdout.split()))


def test_a_second_process_compiles_nothing(tmp_path):
    hits, misses = compiled(tmp_path / "kept", "1")
    assert hits == 0 < misses
    assert compiled(tmp_path / "kept", "2") == (misses, 0)


def test_the_folder_follows_the_environment_and_the_processor(monkeypatch, tmp_path):
    monkeypatch.delenv("UNIREASON_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache.folder() == tmp_path / "unireason" / "compiled" / compile_cache.machine()
    monkeypatch.setenv("UNIREASON_CACHE", str(tmp_path / "here"))
    here = compile_cache.folder()
    assert here.parent == tmp_path / "here"
    monkeypatch.setattr(compile_cache, "_abilities", lambda: "avx512f")
    assert compile_cache.folder() != here
    monkeypatch.setenv("UNIREASON_CACHE", "")
    assert compile_cache.folder() is None


@pytest.fixture
def untouched(monkeypatch):
    """What `share` sets for this process and its children, put back afterwards."""
    for name in ("JAX_COMPILATION_CACHE_DIR", *compile_cache.SMALL_TOO):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(compile_cache, "_tell_jax", lambda path: None)


def test_a_job_of_several_hosts_keeps_them_in_its_own_folder(untouched, monkeypatch, tmp_path):
    monkeypatch.delenv("UNIREASON_CACHE", raising=False)
    place = epath.Path(tmp_path / "run")  # as a run's --workdir is given
    kept = compile_cache.share(place)
    assert kept.parent == place
    (kept / "program").write_text("of the first start")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert compile_cache.share(place) == kept
    assert os.environ["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "run"))


def test_the_users_own_jax_folder_goes_first(untouched, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert compile_cache.share() == tmp_path


def test_a_folder_that_cannot_be_made_is_one_line(untouched, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNIREASON_CACHE", str(tmp_path / "file"))
    assert compile_cache.share() is None
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "UNIREASON_CACHE" in line
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1_000_000 - age, 1_000_000 - age))
    compile_cache.prune(tmp_path, 250)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}
