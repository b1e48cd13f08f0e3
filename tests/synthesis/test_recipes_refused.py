"""What cannot work is one clear line before anybody is paid."""

import shutil

import pytest

from tests.synthesis import agents
from unireason_jax import synthesize
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis import running


@pytest.fixture(scope="module")
def server():
    server = agents.serve(6)
    yield server
    server.close()


def dry(capsys, config, out, recipe="refine_t2i"):
    return agents.refused(capsys, "--recipe", recipe, "--config", config, "--out", out, "--dry_run")


def test_a_dry_run_shows_prompts_and_cost_and_pays_nobody(server, tmp_path, capsys):
    config = agents.write(tmp_path, server)
    flags = ["--recipe", "refine_t2i", "--config", config, "--out", tmp_path / "out", "--dry_run"]
    synthesize.main([*map(str, flags)])
    said = capsys.readouterr().out
    for stage in recipes.load(recipes.folder_of("refine_t2i")).stages():
        assert not stage.prompt or f"--- {stage.name} (" in said
    assert "<plan.reasoning>" in said and "hours by role" in said and "at most" in said
    assert not server.calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('model = "world"', 'model = "wurld"', "has no model 'wurld'; did you mean 'world'?"),
        ('model = "world"', 'model = ""', "an endpoint needs 'model'"),
        ("[[roles.judge.endpoints]]", "[[roles.juge.endpoints]]", "endpoint for role 'judge'"),
        ("WORLD_KEY", "NO_SUCH_KEY", "environment variable NO_SUCH_KEY"),
        ('"WORLD_KEY"', '"sk-not a name"', "not the key itself"),
        ("seeds.jsonl", "other.jsonl", "no such prompt file"),
        ('licence = "CC0-1.0"', 'license = "x"', "did you mean 'licence'?"),
        ("benchmarks = []", "", "field 'benchmarks' is missing"),
        ("benchmarks = []", 'benchmarks = ["b.json"]', "no such prompt file of a benchmark"),
        ("timeout = 60", "timeout = -1", "timeout"),
        ("prices = [1.0, 2.0]", "prices = [1.0, nan]", "prices"),
        ("size = [32, 32]", "size = 32", "size"),
    ],
)
def test_a_configuration_that_cannot_work(server, tmp_path, capsys, old, new, words):
    config = agents.write(tmp_path, server)
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    assert words in dry(capsys, config, tmp_path / "out") and not server.calls


def test_an_endpoint_that_is_not_there(server, tmp_path, capsys):
    config = agents.write(tmp_path, server, url="http://127.0.0.1:9/v1", retries=0)
    assert "role 'planner': connection" in dry(capsys, config, tmp_path / "out")


def test_a_wrong_key(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_KEY", "sk-wrong-0123456789")
    config = agents.write(tmp_path, server)
    flags = ("--recipe", "refine_t2i", "--config", config, "--out", tmp_path / "out")
    said = agents.refused(capsys, *flags)
    assert "status 401" in said and "sk-wrong" not in said


def test_a_folder_that_cannot_be_written(server, tmp_path, capsys):
    config = agents.write(tmp_path, server)
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        assert f"--out {out}: nothing can be written" in dry(capsys, config, out)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "draw"', 'kind = "darw"', "'draft' kind"),
        ('kind = "draw"', 'kind = "draw"\nrol = "x"', "did you mean 'role'?"),
        ('prompt = "plan.txt"', 'prompt = "plans.txt"', "there is no prompt file"),
        ('images = ["image"]', 'images = ["imag"]', "did you mean 'image'?"),
        ('"verify.passed" = true', '"verify.pased" = true', "did you mean 'verify.passed'?"),
        ('task = "refine_t2i"', 'task = "refine_t2"', "no template 'refine_t2'"),
        ('passed = "yesno"', 'passed = "maybe"', "use one of text"),
        ('name = "draft"', 'name = "plan"', "the name is there twice"),
        ('kind = "leave"', 'kind = "gate"', "need a stage of kind 'leave'"),
        ('before = "image"', 'before = "prompt"', "'prompt' is no picture"),
        (
            'image = "repaired" }\n\n[[stage.body]]',
            'imag = "repaired" }\n\n[[stage.body]]',
            "'imag'",
        ),
        ("[inputs]", "[inputs", "cannot be read"),
        ('empty = "rounds"', 'empty = "ronds"', "did you mean 'rounds'?"),
    ],
)
def test_a_recipe_that_cannot_work(server, tmp_path, capsys, old, new, words):
    running.copy("refine_t2i", tmp_path / "mine")
    path = tmp_path / "mine" / "recipe.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    config = agents.write(tmp_path, server)
    said = dry(capsys, config, tmp_path / "out", tmp_path / "mine")
    assert words in said and str(path) in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("Draw {promt}", "unknown field 'promt'; did you mean 'prompt'?"),
        ("Draw {draft}", "'draft'"),
        ("Draw {prompt", "lone brace"),
    ],
)
def test_a_prompt_with_an_unknown_field(server, tmp_path, capsys, words, told):
    running.copy("refine_t2i", tmp_path / "mine")
    (tmp_path / "mine" / "plan.txt").write_text(words)
    config = agents.write(tmp_path, server)
    said = dry(capsys, config, tmp_path / "out", tmp_path / "mine")
    assert told in said and "stage 'plan'" in said


def test_a_copy_is_used_and_an_unknown_recipe_is_named(server, tmp_path, capsys):
    config = agents.write(tmp_path, server)
    said = dry(capsys, config, tmp_path / "out", "refine_t2")
    assert "did you mean 'refine_t2i'?" in said
    synthesize.main(["--recipe", "refine_t2i", "--copy", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "CARD.md").is_file()
    assert "is there already" in agents.refused(
        capsys, "--recipe", "refine_t2i", "--copy", tmp_path / "mine"
    )
    shutil.rmtree(tmp_path / "mine")
    assert "needs --config" in agents.refused(
        capsys, "--recipe", "refine_t2i", "--out", tmp_path / "o"
    )
    assert "no share" in agents.refused(capsys, "--recipe", "refine_t2i", "--share", "4/3")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "a"}], "row 1: field 'prompt'"),
        ([{"prompt": "a cat"}, {"prompt": 7}], "row 2: field 'prompt'"),
        ([{"id": "x", "prompt": "a cat"}, {"id": "x", "prompt": "a dog"}], "'x' is there twice"),
    ],
)
def test_seeds_that_cannot_be_used(server, tmp_path, capsys, rows, words):
    config = agents.write(tmp_path, server, rows=rows)
    assert words in dry(capsys, config, tmp_path / "out")


def test_doubles_and_benchmark_prompts_are_refused(server, tmp_path, capsys):
    rows = [{"prompt": text} for text in ("A red cat.", "a red  CAT", "the moon over Paris")]
    config = agents.write(tmp_path, server, rows=rows, top={"benchmarks": ["wise.json"]})
    (tmp_path / "wise.json").write_text('[{"Prompt": "The moon, over Paris!"}]')
    recipe, _, seeds = running.prepared("refine_t2i", config, (1, 1), 0)
    assert [seed.values["prompt"] for seed in seeds.items] == ["A red cat."]
    assert sum(seeds.dropped.values()) == 2 == len(seeds.dropped) and recipe.name == "refine_t2i"
    config = agents.write(tmp_path, server, rows=rows[2:], top={"benchmarks": ["wise.json"]})
    assert "no seed is left (prompt of a benchmark (1))" in dry(capsys, config, tmp_path / "out")
