"""A new project: its rows can be prepared, its config trains, its Makefile's commands are known."""

import json
import os
import re
import subprocess

import pytest

from unireason_jax import new, prepare
from unireason_jax.__main__ import VERBS
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.run import configuration, corpus


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in an empty folder."""
    folder = tmp_path_factory.mktemp("project")
    new.main([str(folder)])
    return folder


def make(folder, *arguments):
    """What `make` prints, also where a `make` runs these tests, which would be inherited."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_every_row_of_a_project_is_a_record(project, monkeypatch):
    monkeypatch.chdir(project)
    templates = {}
    for group in new.ROWS:
        prepare.main(["", f"--input=data/{group}", f"--output=latents/{group}", "--max_bad=0"])
        source = ArrayRecordSource(project / "latents" / group)
        templates[group] = {source[n].source for n in range(len(source))}
    assert templates == {
        "captions": {"t2i"},
        "edits": {"edit"},
        "questions": {"vqa"},
        "refinements": {"refine_t2i"},
    }
    config = configuration.load("config.py:256,full")
    assert config.data.tokens == configuration.load("configs/own_data.py:256").data.tokens
    for held_out in (False, True):
        sources, _ = corpus.make_sources(config, seed=0, held_out=held_out)
        assert {name: len(one) for name, one in sources.items()} == dict.fromkeys(new.ROWS, 1)


def test_the_makefile_runs_known_commands_in_order(tmp_path):
    project = tmp_path / "mine"
    new.main([str(project)])
    told = make(project, "-n", "train", "generate", "export", "PROMPT=a cat")
    verbs = re.findall(r"^unireason (\w+)", told, re.MULTILINE)
    assert verbs == [*["prepare", "encode"] * 4, "train", "generate", "convert"]
    assert set(verbs) <= VERBS.keys() and '--prompt "a cat"' in told
    assert "--input data/edits --output pictures/edits --sizes bagel_512" in told
    assert make(project).startswith("make train")


def test_only_what_has_changed_is_prepared_again(tmp_path):
    project = tmp_path / "mine"
    new.main([str(project)])
    made = [project / step / group for step in ("pictures", "latents") for group in new.ROWS]
    for number, folder in enumerate(made):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        os.utime(folder / "manifest.json", (2e9 + number, 2e9 + number))

    def told():
        commands = make(project, "-n", "train")
        return re.findall(r"^unireason (\w+)(?: --input (\S+))?", commands, re.MULTILINE)

    assert told() == [("train", "")]
    os.utime(project / "data" / "edits" / "metadata.jsonl", (3e9, 3e9))
    assert told() == [("prepare", "data/edits"), ("encode", "pictures/edits"), ("train", "")]


def test_a_folder_that_is_not_empty_is_left_alone(project, tmp_path):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="is not empty; name a new folder"):
        new.main([str(project)])
    assert before == {path: path.read_bytes() for path in before}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match="file is not empty"):
        new.main([str(tmp_path / "file")])
    new.main([str(tmp_path / "a" / "b")])
    rows = (tmp_path / "a/b/data/captions/metadata.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == new.ROWS["captions"]
