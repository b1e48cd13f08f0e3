"""The commands `generate` and `evaluate` on an untrained run: files, errors, and what is reused."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import unireason_jax
from tests import untrained
from unireason_jax import evaluate, generate
from unireason_jax.evals.world.exam import Exam
from unireason_jax.inference import load, trace

pytestmark = pytest.mark.usefixtures("quick_compile")
FAST = ["--timesteps", "3", "--batch", "8"]
DEVICES = jax.local_devices()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An untrained run."""
    return untrained.write(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """As on a machine without fake devices (`test_reasoner` covers eight)."""
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


def fails(main, arguments, capsys):
    """The message of a run that must end with an error."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return str(stopped.value.code) + capsys.readouterr().err


def names(out):
    """Ids of the conversations in a folder."""
    return sorted(trace.load(path.parent).id for path in out.glob("*/trace.json"))


def only(out):
    """The trace of a folder with one conversation."""
    (path,) = out.glob("*/trace.json")
    return trace.load(path.parent)


def test_generate_writes_traces_and_strips(workdir, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "one", "prompt": "a red circle"}\n\ntwo green crosses\n')
    out, alone = tmp_path / "out", tmp_path / "alone"
    base = ["--checkpoint", workdir, "--rounds", "1", *FAST, "--prompt", "a blue square"]
    generate.main([str(x) for x in [*base, "--out", out, "--prompts", prompts]])
    assert names(out) == ["a blue square", "one", "two green crosses"]
    assert (out / "strips.png").stat().st_size > 1000
    generate.main([str(x) for x in [*base, "--out", alone]])
    again = only(alone)
    first = trace.load(out / next(iter(alone.glob("*/trace.json"))).parent.name)
    assert first.roles[:4] == ["user", "plan", "draft", "reflection"]
    assert first.image.shape == (32, 32, 3) and first.settings["flow"]["timesteps"] == 3
    assert again.texts == first.texts
    assert np.abs(again.image.astype(int) - first.image.astype(int)).max() <= 1
    progress = capsys.readouterr().err
    assert "images/s" in progress and "tokens/s" in progress and "3/3" in progress


def test_generate_goes_on_where_it_was(workdir, tmp_path, capsys):
    base = ["--checkpoint", workdir, "--out", tmp_path, "--preset", "t2i", *FAST]
    base += ["--prompt", "a blue square", "--prompt", "a red circle"]
    generate.main([str(x) for x in base])
    done = {path: path.read_bytes() for path in tmp_path.glob("*/*") if path.suffix == ".png"}
    kept, redone = sorted(tmp_path.glob("*/trace.json"))
    redone.unlink()
    before = kept.stat().st_mtime_ns
    generate.main([str(x) for x in base])
    assert "1 of 2 conversations are there already" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before and redone.exists()
    assert {path: path.read_bytes() for path in done} == done
    assert "other settings" in fails(generate.main, [*base, "--temperature", "1"], capsys)


def test_another_request_under_the_same_id_is_generated(workdir, tmp_path, capsys):
    prompts, picture = tmp_path / "prompts.jsonl", tmp_path / "picture.png"
    base = ["--checkpoint", workdir, "--out", tmp_path / "out", "--preset", "edit", *FAST]
    base += ["--prompts", prompts]

    def ask(text, level):
        Image.new("RGB", (32, 32), (level, 0, 0)).save(picture)
        line = {"id": "one", "prompt": text, "image": "picture.png"}
        prompts.write_text(json.dumps(line) + "\n")
        generate.main([str(x) for x in base])
        found = only(tmp_path / "out")
        source = next(step.image for step in found.steps if step.role == "source")
        return found.request, int(source[0, 0, 0]), capsys.readouterr().out

    asked, again = "remove the red circle", "1 of 1 asked something else"
    assert ask(asked, 50)[:2] == (asked, 50)
    assert "there already" in ask(asked, 50)[2]
    text, level, said = ask("remove the blue circle", 50)
    assert (text, level) == ("remove the blue circle", 50) and again in said
    text, level, said = ask("remove the blue circle", 90)
    assert level == 90 and again in said


def test_bad_requests_are_listed_and_the_others_drawn(workdir, tmp_path, capsys):
    wide, broken, good = (tmp_path / f"{name}.png" for name in ("wide", "broken", "good"))
    Image.new("RGB", (5000, 1)).save(wide)
    Image.new("RGB", (32, 32)).save(good)
    broken.write_bytes(good.read_bytes()[:60])
    rows = [("ok", "add a red circle", "good.png"), ("empty", " ", "good.png")]
    rows += [("wide", "add a red circle", "wide.png"), ("gone", "add a red circle", "no.png")]
    rows += [("broken", "add a red circle", "broken.png"), ("long", "red " * 400, "good.png")]
    rows.append(("ok", "add a blue circle", "good.png"))
    prompts = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"id": i, "prompt": p, "image": f}) for i, p, f in rows]
    prompts.write_text("\n".join(lines))
    arguments = ["--checkpoint", workdir, "--out", tmp_path / "out", "--preset", "edit", *FAST]
    told = fails(generate.main, [*arguments, "--prompts", prompts], capsys)
    assert told.startswith("1") and "error: 6 requests refused" in told and "refused.jsonl" in told
    assert names(tmp_path / "out") == ["ok"]
    listed = (tmp_path / "out" / "refused.jsonl").read_text().splitlines()
    reasons = {row["id"]: row["reason"] for row in map(json.loads, listed)}
    for name, words in {
        "empty": "prompt is empty",
        "wide": "5000 x 1 pixels .* multiples of 8 up to",
        "gone": "no.png does not exist",
        "broken": "broken.png.*(decoded|readable)",
        "long": "402 tokens.*320",
        "ok": "'ok' is taken by .*prompts.jsonl:1; give each",
    }.items():
        assert re.search(words, reasons[name]), reasons[name]
    assert all(f"{prompts}:" in json.loads(line)["where"] for line in listed)
    prompts.write_text(lines[0])
    generate.main([str(x) for x in [*arguments, "--prompts", prompts]])
    assert not (tmp_path / "out" / "refused.jsonl").exists()


def test_generate_edits_a_picture(workdir, tmp_path, capsys):
    picture = tmp_path / "in.png"
    Image.new("RGB", (32, 32), (16, 16, 20)).save(picture)
    arguments = ["--checkpoint", workdir, "--out", tmp_path / "out", "--preset", "edit"]
    arguments += ["--image", picture, "--prompt", "add a red circle", "--samples", "2", *FAST]
    generate.main([str(x) for x in arguments])
    found = [trace.load(path.parent) for path in sorted(tmp_path.glob("out/*/trace.json"))]
    assert [t.sample for t in found] == [0, 1]
    assert found[0].steps[1].given and found[0].steps[1].image.shape == (32, 32, 3)
    other = tmp_path / "other.png"
    picture.rename(other)
    arguments[arguments.index(picture)] = other
    assert "conversations of other settings" in fails(generate.main, arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate"),
        (["--prompt", " "], "prompt is empty"),
        (["--prompt", "a purpel circle"], "does not know the word.*purpel"),
        (["--prompt", "red " * 400], "402 tokens.*320"),
        (["--prompt", "a circle", "--timesteps", "1"], "timesteps"),
        (["--prompt", "a circle", "--rounds", "-1"], "rounds must be >= 0"),
        (["--prompt", "a circle", "--seed", "-1"], "seed must be >= 0"),
        (["--prompt", "a circle", "--samples", "0"], "--samples must be >= 1"),
        (["--prompt", "a circle", "--guidance", "nan"], "guidance must be a number"),
        (["--prompt", "a circle", "--temperature", "inf"], "temperature must be a number"),
        (["--prompt", "a circle", "--size", "0", "-8"], "size must be >= 1, not 0"),
        (["--prompt", "a circle", "--batch", "0"], "batch must be >= 1"),
        (["--prompt", "a circle", "--timesteps", "2.5"], "^2error: argument --timesteps.*'2.5'"),
        (["--prompt", "a circle", "--size", "64"], "^2error: argument --size"),
        (["--prompt", "a circle", "--size", "30", "32"], "30 x 32 pixels: give multiples of 8"),
        (["--prompt", "a circle", "--preset", "edit"], "needs an image"),
        (
            ["--prompt", "a circle", "--preset", "t2i", "--image", "no.png"],
            "takes no image; leave it out",
        ),
        (["--prompt", "a circle", "--preset", "refine_t21"], "did you mean 'refine_t2i'"),
        (["--prompt", "a circle", "--preset", "edit", "--image", "no.png"], "no.png does not"),
        (["--prompts", "no.txt"], "no.txt: no such file"),
        (["--prompt", "a circle", "--step", "7"], "no checkpoint of step 7"),
    ],
)
def test_generate_says_what_is_wrong(workdir, tmp_path, capsys, arguments, message):
    base = ["--checkpoint", workdir, "--out", tmp_path / "out"]
    assert re.search(message, fails(generate.main, [*base, *arguments], capsys))
    assert not (tmp_path / "out").exists()


def test_lines_that_cannot_be_read_are_listed_and_the_others_drawn(workdir, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    prompts.write_bytes(b'{oops\n{"prompt": 3}\na circle\n{"prompt": "a", "image": 1}\n\xff\n')
    arguments = ["--checkpoint", workdir, "--out", out, "--preset", "t2i", *FAST]
    told = fails(generate.main, [*arguments, "--prompts", prompts], capsys)
    assert f"4 requests refused, see {out / 'refused.jsonl'}" in told and ":1: not JSON" in told
    assert names(out) == ["a circle"]
    listed = [json.loads(line) for line in (out / "refused.jsonl").read_text().splitlines()]
    assert [row["where"] for row in listed] == [f"{prompts}:{n}" for n in (1, 2, 4, 5)]
    for row, words in zip(listed, ("not JSON", "field 'prompt'", "field 'image'", "UTF-8")):
        assert words in row["reason"], row
    assert [row["line"] for row in listed[:2]] == ["{oops", '{"prompt": 3}']
    prompts.write_bytes(b"\xef\xbb\xbf{oops\n")  # as some editors begin a file
    assert ":1: not JSON" in fails(generate.main, [*arguments, "--prompts", prompts], capsys)


def test_requests_are_told_in_the_style_of_the_training(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["style"] = "bagel"
    (run / "config.json").write_text(json.dumps(config))
    picture = np.zeros((32, 32, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "in.png")
    arguments = ["--checkpoint", run, "--out", tmp_path / "out", "--preset", "edit", *FAST]
    arguments += ["--image", tmp_path / "in.png", "--prompt", "add a red circle"]
    generate.main([str(x) for x in arguments])
    assert only(tmp_path / "out").roles == ["source", "user", "image"]
    reasoner, told = load.load(run), []
    assert reasoner.style.image_first and not load.load(workdir).style.image_first
    reasoner.run = lambda records, **options: told.extend(records) or []
    request = {"id": "e", "instruction": "add a red circle", "input_image": picture}
    Exam(reasoner, seed=0).traces("edit", [request], 1)
    assert [segment.role for segment in told[0].segments] == ["source", "user", "image"]


def test_weights_are_spread_over_the_mesh(workdir, tmp_path, monkeypatch, capsys):
    one, eight = tmp_path / "one", tmp_path / "eight"
    base = ["--checkpoint", workdir, "--preset", "think_t2i", "--prompt", "a red circle", *FAST]
    mesh = [*base, "--out", eight, "--mesh", "data=2,fsdp=2,tensor=2"]
    generate.main([str(x) for x in [*base, "--out", one]])
    assert "needs 8 devices but there are 1" in fails(generate.main, mesh, capsys)
    monkeypatch.setattr(jax, "local_devices", lambda: DEVICES)
    generate.main([str(x) for x in mesh])
    assert only(one).texts == only(eight).texts
    assert np.abs(only(one).image.astype(int) - only(eight).image.astype(int)).max() <= 1
    engine = load.from_flags(generate.parser().parse_args([str(x) for x in mesh])).engine
    leaves = jax.tree.leaves(engine.params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held < 0.4 * sum(leaf.nbytes for leaf in leaves)
    assert engine.empty(4, 64).k.addressable_shards[0].data.shape[1:3] == (1, 1)
    assert "invalid mesh_axes" in fails(generate.main, [*base, "--out", one, "--mesh", "x"], capsys)


@pytest.mark.parametrize("main", [generate.main, evaluate.main])
def test_a_directory_without_a_run_is_named(main, tmp_path, capsys):
    arguments = ["--checkpoint", tmp_path / "none", "--out", tmp_path / "out"]
    if main is generate.main:
        arguments += ["--prompt", "a circle"]
    assert "none" in fails(main, arguments, capsys)


def test_evaluate_writes_a_report(workdir, tmp_path, capsys):
    sizes = ["--prompts", "1", "--pairs", "0", "--knowledge", "0", "--edits", "1"]
    sizes += ["--questions", "1", "--drafts", "2", "--rounds", "1"]
    out = tmp_path / "report"
    arguments = ["--checkpoint", workdir, "--out", out, *sizes, *FAST, "--guidance", "1"]
    evaluate.main([str(x) for x in arguments])
    values = json.loads((out / "report.json").read_text())
    assert set(values["sections"]) >= {
        "prompts",
        "own_drafts",
        "given_drafts",
        "edits",
        "questions",
    }
    assert "2 steps (euler)" in values["facts"]["sampling"]
    assert values["headline"]["held-out prompts, with plan"]["count"] == 6
    assert (out / "failures.png").exists() and (out / "chart.png").exists()
    told = capsys.readouterr()
    assert "report.md" in told.out and told.err.count("100 %") == 1
    assert "prompts must be >= 0" in fails(evaluate.main, [*arguments, "--prompts", "-1"], capsys)


def test_loading_uses_the_average_and_the_canvas_of_the_run(workdir):
    reasoner = load.load(workdir)
    assert reasoner.settings.size == (32, 32)
    assert reasoner.engine.spec.max_text == 320
    last = load.load(workdir, which="params")
    assert jax.tree.structure(last.engine.params) == jax.tree.structure(reasoner.engine.params)


def test_keys_and_values_are_kept_in_what_the_flag_says(workdir, tmp_path):
    told = ["--checkpoint", workdir, "--out", tmp_path, "--prompt", "a red circle"]
    arguments = generate.parser().parse_args([*map(str, told), "--kv_dtype", "float8_e4m3fn"])
    model = load.from_flags(arguments)
    assert model.engine.empty(1, 8).k.dtype == "float8_e4m3fn"
    assert load.told(arguments).endswith("keys and values in float8_e4m3fn")
    assert model.generate("a red circle", preset="t2i").image.shape == (32, 32, 3)


def test_a_run_draws_at_the_size_of_its_own_pictures(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "pictures.json").write_text('{"size": [48, 32]}')
    m = load.load(run)
    assert m.settings.size == (48, 32)
    assert m.generate("a red circle", rounds=0, timesteps=2).image.shape == (48, 32, 3)


def test_python_in_five_lines(workdir):
    m = unireason_jax.load(workdir)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(m.engine.params))
    drawn = m.generate("a red circle", rounds=1)
    assert drawn.roles[:3] == ["user", "plan", "draft"] and drawn.image.shape == (32, 32, 3)
    assert drawn._repr_png_().startswith(b"\x89PNG")
    edited = m.edit(drawn.image, "remove the red circle")
    assert edited.roles == ["user", "source", "image"]
    other = m.edit(drawn.image, "remove the red circle", sample=1)
    assert not np.array_equal(edited.image, other.image)
    answer = m.ask(drawn.image, "what color is the circle ?")
    assert answer.roles == ["source", "user", "answer"] and answer.text_of("answer") is not None
    with pytest.raises(ValueError, match="did you mean 'think_t2i'"):
        m.generate("a red circle", preset="think_t2")


def test_bad_input_in_python_says_what_is_wrong(workdir):
    m, wide = unireason_jax.load(workdir), np.zeros((1, 5000, 3), np.uint8)
    for call, message in (
        (lambda: m.generate(" "), "prompt is empty"),
        (lambda: m.generate("red " * 400), "402 tokens.*320"),
        (lambda: m.edit(wide, "remove the circle"), "5000 x 1 pixels .* multiples of 8"),
        (lambda: m.ask(b"no picture", "what color ?"), "source: image .*(readable|decoded)"),
        (lambda: m.ask(wide, "what colour ?"), r"know the word\(s\) colour; .* Near: color"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_model_without_vit_says_that_it_cannot_look(tmp_path, capsys):
    run = untrained.write(tmp_path / "run", vit_tower=False)
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    row = {"prompt": "what color is the circle", "image": "in.png"}
    prompts.write_text(json.dumps(row))
    arguments = ["--checkpoint", run, "--out", out, "--prompts", prompts, "--preset", "vqa"]
    assert "this checkpoint has no ViT" in fails(generate.main, arguments, capsys)
    m = unireason_jax.load(run)
    with pytest.raises(ValueError, match="source: this checkpoint has no ViT"):
        m.ask(np.zeros((32, 32, 3), np.uint8), "what color is the circle ?")


def test_importing_the_package_is_light():
    code = "import sys, unireason_jax; print(unireason_jax.load.__name__, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["load", "False"]
