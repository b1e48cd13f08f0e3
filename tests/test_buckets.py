"""Every verb with all its paths in a bucket, over the real protocol, ends as on a file system."""

import json
import os
import re

import jax
import numpy as np
import pytest
from PIL import Image

import unireason_jax
from tests import untrained
from tests.evals.published.painter import Painter
from tests.test_synthesize import Drafter
from tests.test_train import make_run, trained
from unireason_jax import benchmark, convert, encode, evaluate, generate, prepare, synthesize
from unireason_jax.data import images
from unireason_jax.data.sources import ArrayRecordSource, open_source
from unireason_jax.evals.published import SUITES, world_sets
from unireason_jax.inference import trace
from unireason_jax.run import configuration
from unireason_jax.run.run import Run
from unireason_jax.storage import lock, paths
from unireason_jax.training import checkpoint, checkpoint_manifest

pytestmark = pytest.mark.usefixtures("quick_compile")
ROOT = "gs://bucket/verbs"


@pytest.fixture(scope="module", autouse=True)
def quick_lock():
    """Nobody else is there: the lock of a bucket need not settle."""
    before, lock._Bucket.settles = lock._Bucket.settles, 0.0
    yield
    lock._Bucket.settles = before


@pytest.fixture(scope="module")
def inputs(bucket_server, tmp_path_factory):
    """Rows of several kinds of files with a folder of images, here and in the bucket."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    rows = []
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append({"prompt": f"picture {number}", "image": f"images/{number}.png"})
    rows[7]["image"] = "images/none.png"
    rows[8]["image"] = "../elsewhere.png"
    text = "".join(json.dumps({"task": "t2i", **row}) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    (folder / "rows.csv").write_text(
        "prompt,image,task\n" + "".join(f"{row['prompt']},{row['image']},t2i\n" for row in rows)
    )
    whole = [
        {"task": "t2i", "prompt": row["prompt"], "image": (folder / row["image"]).read_bytes()}
        for row in rows[:7]
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(whole), folder / "rows.parquet")
    paths.copy_tree(folder, f"{ROOT}/inputs")
    return folder


def prepared(inputs, output, *flags):
    prepare.main(["prepare", f"--input={inputs}", f"--output={output}", "--sizes=world", *flags])
    return {
        str(path.relative_to(paths.of(output))): path.read_bytes()
        for path in paths.of(output).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.*l*"])
def test_prepare_in_a_bucket_ends_with_the_same_bytes(name, inputs, tmp_path):
    flags = ["--shard_records=4", "--workers=2" if name == "rows.jsonl" else "--workers=0"]
    here = prepared(inputs / name, tmp_path / "out", *flags)
    there = prepared(f"{ROOT}/inputs/{name}", f"{ROOT}/out-{name.replace('*', 'x')}", *flags)
    for file in ("quarantine.jsonl", "manifest.json"):  # they name the place of what is missing
        there[file] = there[file].replace(f"{ROOT}/inputs".encode(), str(inputs).encode())
    assert here == there and any(file.startswith("records-") for file in here)


def test_files_and_shards_in_a_bucket_are_read_record_by_record(inputs, tmp_path):
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        one, two = open_source(inputs / name), open_source(f"{ROOT}/inputs/{name}")
        assert len(one) == len(two) and repr(one) == repr(two)
        for index in (5, 0, 3):
            pixels = [images.load(s[index].segments[-1].image) for s in (one, two)]
            assert np.array_equal(*pixels), name
    prepared(inputs / "rows.parquet", tmp_path / "out")
    prepared(f"{ROOT}/inputs/rows.parquet", f"{ROOT}/shards")
    one, two = ArrayRecordSource(tmp_path / "out"), ArrayRecordSource(f"{ROOT}/shards")
    assert [one[i] for i in range(7)] == [two[i] for i in range(7)]
    with pytest.raises(FileNotFoundError, match=f"{ROOT}/none does not exist"):
        open_source(f"{ROOT}/none")


@pytest.fixture(scope="module")
def world(bucket_server):
    """Records of the world in the bucket, and their latents."""
    flags = ["--format=world", "--tasks=t2i=2,edit=1", "--size=48", "--shard_records=16"]
    prepare.main(["prepare", *flags, f"--output={ROOT}/world"])
    encode.main(["encode", f"--input={ROOT}/world", f"--output={ROOT}/latents"])
    return f"{ROOT}/latents"


@pytest.mark.slow
def test_a_run_on_data_in_a_bucket_is_that_on_a_file_system(world, tmp_path):
    paths.copy_tree(world, tmp_path / "latents")
    losses = []
    for source, workdir in ((world, f"{ROOT}/run"), (tmp_path / "latents", tmp_path / "run")):
        run = make_run(
            data__source=str(source),
            data__held_out=str(source),
            data__max_unknown=1.0,
            train__steps=2,
            train__save_every=1,
            eval__every=0,
            train__log_every=1,
        )
        trained(run, workdir)
        rows = [json.loads(line) for line in _lines(f"{workdir}/metrics.jsonl")]
        losses.append([(row["step"], row["loss/ce"]) for row in rows if "loss/ce" in row])
        assert checkpoint_manifest.steps(workdir) == [1, 2]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert [path.name for path in (paths.of(ROOT) / "run" / "tensorboard").iterdir()]
    assert list((paths.of(world) / "plans").glob("plan-*.npz"))
    here, there = (checkpoint.load_params(w) for w in (tmp_path / "run", f"{ROOT}/run"))
    for one, two in zip(jax.tree.leaves(here), jax.tree.leaves(there)):
        np.testing.assert_array_equal(one, two)


def _lines(path):
    from unireason_jax.storage import lines

    return lines.read(path)


@pytest.fixture(scope="module")
def run(bucket_server):
    """An untrained run."""
    return untrained.write(f"{ROOT}/untrained")


@pytest.fixture
def one_device(monkeypatch):
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


@pytest.mark.slow
def test_generate_and_load(run, one_device, capsys):
    (paths.of(ROOT) / "prompts.jsonl").write_text('{"prompt": "a red circle"}\na blue square\n')
    flags = ["--checkpoint", run, "--out", f"{ROOT}/generated", "--preset", "t2i"]
    flags += ["--prompts", f"{ROOT}/prompts.jsonl", "--timesteps", "3"]
    generate.main(flags)
    found = sorted((paths.of(ROOT) / "generated").glob("*/trace.json"))
    assert len(found) == 2 and (paths.of(ROOT) / "generated" / "strips.png").is_file()
    pictures = [trace.load(path.parent).image for path in found]
    generate.main(flags)
    assert "2 of 2 conversations are there already" in capsys.readouterr().out
    model = unireason_jax.load(run)
    again = model.generate("a blue square", preset="t2i", timesteps=3).image
    assert min(np.abs(again.astype(int) - p).max() for p in pictures) <= 1


@pytest.mark.slow
def test_convert_out_of_a_bucket_and_into_one(run, tmp_path):
    out, home = f"{ROOT}/weights", tmp_path / "weights"
    for target in (out, home):
        assert convert.main(["--to", "weights", "--input", run, "--output", str(target)]) == 0
    paths.copy_tree(out, tmp_path / "copied")
    here, there = (
        {str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in (home, tmp_path / "copied")
    )
    assert here.keys() == there.keys()
    assert all(here[name] == there[name] for name in here if name.endswith(".safetensors"))
    assert Run.load(out).config.to_dict() == configuration.load_workdir(home).to_dict()
    assert convert.main(["--to", "bagel", "--input", out, "--output", f"{ROOT}/release"]) == 0
    assert (paths.of(ROOT) / "release" / "ema.safetensors").is_file()


@pytest.mark.slow
def test_evaluate(run, one_device):
    sizes = ["prompts", "controls", "pairs", "knowledge", "edits", "drafts", "process", "hidden"]
    flags = [word for name in sizes for word in (f"--{name}", "0")]
    flags += ["--questions", "1", "--flow_batches", "0", "--timesteps", "2", "--max_text", "4"]
    evaluate.main(["--checkpoint", run, "--out", f"{ROOT}/report", *flags])
    assert (paths.of(ROOT) / "report" / "report.md").read_text().startswith("# ")


def test_synthesize(bucket_server, monkeypatch):
    monkeypatch.setattr(synthesize, "from_flags", lambda _: Drafter())
    flags = ["--checkpoint", "x", "--out", f"{ROOT}/critiques", "--count", "12"]
    for _ in range(2):
        folder = synthesize.run(synthesize.parser().parse_args(flags))
        records = open_source(folder / "records.jsonl")
        assert len(records) >= 6 and records[0].segments
        monkeypatch.setattr(Drafter, "draft", lambda *_: pytest.fail("drawn again"))
    assert (folder / "examples.png").is_file()


def test_benchmark(bucket_server, monkeypatch, capsys):
    counts = dict.fromkeys(world_sets.COUNTS, 1)
    world_sets.write(paths.of(ROOT) / "sets", 1, counts=counts)
    monkeypatch.setattr(
        benchmark,
        "from_flags",
        lambda _: Painter(SUITES["wise"].load(paths.of(ROOT) / "sets" / "wise.json")),
    )
    monkeypatch.setattr(benchmark, "told", lambda _: "painter")
    flags = ["--suite", "wise", "--prompts", f"{ROOT}/sets/wise.json", "--out", f"{ROOT}/wise"]
    for _ in range(2):
        benchmark.main([*flags, "--checkpoint", "x", "--judge", "program"])
    assert re.search(r"coverage: ([1-9]\d*) of \1 ", capsys.readouterr().out)


def test_what_is_not_there_is_one_line(bucket_server, capsys):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--checkpoint", f"{ROOT}/none", "--out", f"{ROOT}/o", "--prompt", "a"])
    assert f"error: {ROOT}/none" in str(stopped.value.code)
    with pytest.raises(SystemExit):
        generate.main(["--checkpoint", "x", "--out", "https://x/y", "--prompt", "a"])
    assert "addresses of this kind are not read" in capsys.readouterr().err
    for name in ("gs://no-such-bucket/rows.jsonl", f"{ROOT}/none.jsonl"):
        with pytest.raises(SystemExit) as stopped:
            prepare.main(["prepare", f"--input={name}", f"--output={ROOT}/o"])
        assert "does not exist" in str(stopped.value.code)
    assert not os.path.exists("gs:")
