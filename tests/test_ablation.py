"""The ablation's plan and its jobs: equal images, budgets, resuming, and the whole in small."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from unireason_jax import ablation
from unireason_jax.evals.world import study as study_of
from unireason_jax.models import functional
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError

STUDY = str(Path(__file__).parent / "tiny_ablation.py")
REAL = "configs/world_ablation.py"
BACKBONES = "configs/world_backbones.py"
GROUPS = {
    "held-out prompts": ("position", "colors"),
    "knowledge": ("logical",),
}
MODES = ("prompt only", "with plan", "plan + refinement")


@pytest.fixture(scope="module", autouse=True)
def measured_once():
    """Every config's packs are measured once for all tests."""
    measure, known = study_of.images_per_step, {}

    def remembered(config):
        key = json.dumps(configuration.plain(config))
        if key not in known:
            known[key] = measure(config)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_of, "images_per_step", remembered)
        yield


def arguments(workdir, *more):
    return ablation.parser().parse_args(["--config", STUDY, "--workdir", str(workdir), *more])


class Executor:
    """Stands in for processes: leaves what an evaluation leaves; dies at the given job."""

    def __init__(self, dies_at=None):
        self.commands, self.dies_at = [], dies_at

    def __call__(self, command):
        if len(self.commands) == self.dies_at:
            raise KeyboardInterrupt
        self.commands.append(command)
        flags = dict(word.removeprefix("--").split("=", 1) for word in command[1:])
        if command[0].endswith("evaluate"):
            folder = Path(flags["out"])
            folder.mkdir(parents=True)
            found = {
                f"{measure}, {mode}": {group: [0, 1, 1] for group in groups}
                for measure, groups in GROUPS.items()
                for mode in MODES
            }
            (folder / "outcomes.json").write_text(json.dumps(found))


def test_killed_and_started_again_it_does_what_is_left(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        ablation.run(arguments(tmp_path), first := Executor(dies_at=4))
    assert not (tmp_path / "report" / "report.md").exists() or len(first.commands) == 4
    folder = ablation.run(arguments(tmp_path), second := Executor())
    names = [command[0].split(".")[1] for command in first.commands + second.commands]
    assert names == [
        "train",
        "train",
        "evaluate",
        "train",
        "train",
        "evaluate",
        "synthesize",
        "train",
        "evaluate",
    ]
    text = (folder / "report.md").read_text()
    assert "knowledge: base < two-stage does NOT come out" in text
    assert "not yet evaluated: nothing" in text
    ablation.run(arguments(tmp_path), third := Executor())
    assert not third.commands
    assert "min left in all" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="another --workdir"):
        ablation.run(arguments(tmp_path, "--seeds", "2"), Executor())


def test_a_failure_takes_along_only_what_goes_on_from_it(tmp_path):
    executed = Executor()

    def failing(command):
        if "synthesize" in command[0]:
            raise ablation.JobFailed("exit status 1")
        executed(command)

    with pytest.raises(ConfigError, match=r"synthesize own.*\n.*train own.*\n.*evaluate own"):
        ablation.run(arguments(tmp_path), failing)
    assert len(executed.commands) == 6
    text = (tmp_path / "report" / "report.md").read_text()
    assert "not yet evaluated: own critiques" in text and "+ refinement" in text


def test_stages_hand_over_and_seeds_are_told_apart(tmp_path):
    ablation.run(arguments(tmp_path, "--seeds", "2"), executed := Executor())
    trains = [" ".join(c) for c in executed.commands if c[0].endswith("train")]
    assert len(trains) == 10
    after = [t for t in trains if ":stage2" in t or ":own" in t]
    for command in after:
        seed = re.search(r"--config\.seed=(\d)", command).group(1)
        assert f"--config.init_from={tmp_path}/seed{seed}/stage1" in command
    own = next(t for t in trains if ":own" in t)
    assert "--config.data.extra.share=0.5" in own and "own_records/records.jsonl" in own


def test_all_rows_draw_the_same_number_of_images():
    study = study_of.load_study(STUDY)
    rates = study_of.measured_rates(study, STUDY)
    plan = study_of.plan_steps(study, rates, study.images)
    whole = plan["plain"]["images"]
    assert whole == plan["stage1"]["images"] + plan["stage2"]["images"] == study.images
    for run, numbers in plan.items():
        config = configuration.load(f"{STUDY}:{run}")
        if not {"own_critiques", "steps"} & set(study.runs[run]):
            drawn = study_of.images_per_step(config) * numbers["steps"]
            assert drawn == pytest.approx(numbers["images"], rel=0.08), run
    # refinement records hold several pictures, so a step of them draws another number
    assert plan["stage1"]["steps"] != plan["stage2"]["steps"]


def test_the_budget_scales_the_steps_and_says_when_it_is_too_small():
    study = study_of.load_study(STUDY)
    rates = study_of.measured_rates(study, STUDY)
    images = [study_of.images_within(study, rates, 1, minutes) for minutes in (2, 4)]
    short, long = (study_of.plan_steps(study, rates, number) for number in images)
    for minutes, plan in ((2, short), (4, long)):
        jobs = ablation.make_jobs(study, STUDY, Path("x"), 1, plan)
        assert sum(job.seconds for job in jobs) == pytest.approx(60 * minutes, rel=0.02)
    assert long["plain"]["steps"] > 2 * short["plain"]["steps"]
    with pytest.raises(ConfigError, match="too short"):
        study_of.images_within(study, rates, 1, 0.1)


def test_rows_that_join_later_draw_as_many_images(tmp_path):
    budget = ("--minutes", "2")
    ablation.run(arguments(tmp_path, *budget, "--only", "base"), Executor())
    first = json.loads((tmp_path / "plan.json").read_text())
    ablation.run(arguments(tmp_path, *budget), later := Executor())
    whole = json.loads((tmp_path / "plan.json").read_text())
    assert whole["images"] == first["images"] == whole["runs"]["plain"]["images"]
    assert whole["images"] == sum(whole["runs"][run]["images"] for run in ("stage1", "stage2"))
    assert first["runs"].items() <= whole["runs"].items()
    assert not any(":plain" in word for command in later.commands for word in command)
    folder = ablation.run(arguments(tmp_path, *budget, "--only", "base"), Executor())
    assert "| + refinement |" in (folder / "report.md").read_text()


def test_a_training_that_was_stopped_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    command = ["unireason_jax.train", f"--workdir={tmp_path}", "--config.train.steps="]
    ablation.execute([*command[:2], command[2] + "3"])
    with pytest.raises(ablation.JobFailed, match="was stopped before step 4"):
        ablation.execute([*command[:2], command[2] + "4"])


def test_the_study_of_the_world_is_sound(capsys):
    study = study_of.load_study(REAL)
    names = {name for name, _, _ in study.rows}
    for measure, smaller, larger in study.claims:
        assert {smaller, larger} <= names and measure in study.measures
    for run in study.needed():
        if run == "alignment":
            continue
        config = configuration.load(f"{REAL}:{run}")
        shares = {k: v for k, v in config.data.mixture.items() if v}
        assert shares == study.runs[run]["mixture"]
        extra = study.runs[run].get("own_critiques", 0)
        assert sum(shares.values()) + extra == pytest.approx(1.0)
        facts = sum(share for task, share in shares.items() if "knowledge" in task)
        assert facts == pytest.approx(0.2), f"{run} sees more or fewer facts than the others"
    with pytest.raises(ConfigError, match="no row 'bse'; there are base"):
        study.only(["bse"])
    assert study.only(["+ reasoning"]).needed() == ["alignment", "stage1", "stage2"]


def test_both_backbones_have_as_many_parameters_and_the_same_records():
    study = study_of.load_study(BACKBONES)
    names = {name for name, _, _ in study.rows}
    for measure, smaller, larger in study.claims:
        assert {smaller, larger} <= names and measure in study.measures
    for stage in ("alignment", "joint", "uni_edit"):
        flow, codes = (configuration.load(f"{BACKBONES}:{b}_{stage}") for b in ("flow", "codes"))
        models = [configuration.model_config(config) for config in (flow, codes)]
        parameters = [
            sum(leaf.size for leaf in jax.tree.leaves(functional.abstract(model)))
            for model in models
        ]
        assert parameters[0] == pytest.approx(parameters[1], rel=0.01)
        assert flow.data == codes.data and flow.optim == codes.optim
        shares = {task: share for task, share in flow.data.mixture.items() if share}
        assert shares == study.runs[f"flow_{stage}"]["mixture"]
        assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_whole_in_small(tmp_path):
    """Trainings and evaluations in real processes; then a second start finds nothing to do."""
    command = [sys.executable, "-m", "unireason_jax.ablation", "--config", STUDY]
    command += ["--workdir", str(tmp_path), "--only", "base,+ refinement"]
    one_device = os.environ | {"XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=one_device)
    assert done.returncode == 0, done.stderr[-3000:]
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.md", "report.json", "chart.png", "curves.png", "outcomes.json"} <= names
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["sections"]["rows"]
    assert rows["rows"]["+ refinement"]["knowledge"]["count"] == 5
    again = subprocess.run(command, capture_output=True, text=True, env=one_device)
    assert again.returncode == 0 and "min left in all" not in again.stdout
