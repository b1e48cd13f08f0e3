"""From images through `prepare` and `encode` to training, by config and in several processes."""

import hashlib
import io
import json
import pickle
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from PIL import Image

from launch.local import LocalJob
from tests import released_files
from unireason_jax import encode, prepare, train
from unireason_jax.data.image_sizes import SIZES
from unireason_jax.data.prepared import serialization
from unireason_jax.data.resizing import Resize
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.run import configuration
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run

REPOSITORY = Path(__file__).resolve().parent.parent
KILLED = 5  # number of the shard at which one of two processes is killed
KILLER = f"""
import os, signal, sys
from unireason_jax import encode
from unireason_jax.data.prepared import shards
make = shards._make
def make_or_die(folder, number, found):
    os.kill(os.getpid(), signal.SIGKILL) if number == {KILLED} else make(folder, number, found)
shards._make = make_or_die
encode.main(sys.argv)
"""


def prepared(output, *more, size=(90, 70), count=12):
    """Text to image, and edits, as `prepare` writes them."""
    images = output.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{name}.png")
    rows = [
        {"id": f"t{n}", "txt": f"a house with {n} doors", "image_path": f"{'abc'[n % 3]}.png"}
        for n in range(count)
    ]
    for row in rows[::2]:
        row["instruction"], row["output_image"] = row.pop("txt"), row.pop("image_path")
        row["input_image"] = "a.png"
    file = output.with_suffix(".jsonl")
    file.write_text("\n".join(map(json.dumps, rows)))
    arguments = [f"--input={file}", f"--images={images}", "--format=unireason"]
    prepare.main(["prepare", *arguments, f"--output={output}", *more])
    return output


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return released_files.write_autoencoder(tmp_path_factory.mktemp("released"))


@pytest.fixture
def small_images(monkeypatch):
    """UniReason's rules with smaller limits."""
    rules = {"latent_resize": Resize(64, 32, 16), "vit_resize": Resize(56, 28, 14)}
    monkeypatch.setitem(SIZES, "unireason", SIZES["unireason"] | rules)


def config_of(source, **data):
    config = configuration.load("configs/tiny.py")
    config.model.vit.patch, config.model.latent.channels, config.model.latent.patch = 14, 16, 2
    config.data.update({"source": str(source), "tokens": 500, "rows": 8} | data)
    config.train.update({"steps": 3, "log_every": 1, "save_every": 0, "tensorboard": False})
    config.eval.every = 0
    return config


def arguments(source, autoencoder, output, *more):
    """`encode` by config."""
    return [
        "--config=configs/tiny.py",
        f"--config.data.source={source}",
        f"--config.data.vae={autoencoder}",
        f"--output={output}",
        *more,
    ]


@pytest.mark.slow
def test_training_from_the_cache_is_training_online(autoencoder, small_images, tmp_path):
    pixels, latents = prepared(tmp_path / "pixels"), tmp_path / "latents"
    encode.main(["encode", *arguments(pixels, autoencoder, latents, "--dtype=float32")])
    online, cached = (config_of(p, vae=str(autoencoder)) for p in (pixels, latents))
    batches = []
    for config in (online, cached):
        pipeline = Run.of(config).pipeline(whole=True)
        batches.append([next(pipeline) for _ in range(3)])
        pipeline.close()
    for ours, theirs in zip(*batches, strict=True):
        assert np.abs(ours["latents"]).sum() > 1000
        for name, values in ours.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    workdir, run = tmp_path / "run", Run.of(cached)
    final = train.train(run, run.pipeline(workdir=workdir), epath.Path(workdir))
    assert int(final.step) == 3 and int(final.opt_state.skipped) == 0
    assert (tmp_path / "run" / "ae.safetensors").exists()  # the run can be sampled from


def test_loader_processes_never_run_the_autoencoder(autoencoder, small_images, tmp_path):
    pixels, latents = prepared(tmp_path / "pixels", count=4), tmp_path / "latents"
    encode.main(["encode", *arguments(pixels, autoencoder, latents)])
    given = {"vae": str(autoencoder), "workers": 2, "rows": 2}
    with pytest.raises(ConfigError, match=r"data\.workers=2: .*pixels holds images.*workers=0"):
        Run.of(config_of(pixels, **given)).pipeline(whole=True)
    stored = Run.of(config_of(latents, **given)).pipeline(whole=True)
    assert b"jax" not in pickle.dumps(stored._maker).replace(b"unireason_jax", b"")
    stored.close()


def test_every_folder_of_a_config_is_encoded(autoencoder, small_images, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "latents"
    one = prepared(data / "one", count=3)
    words = f"--tokenizer={one / 'tokenizer'}"
    held_out = prepared(data / "later", words, count=2)
    flags = [f"--config.data.held_out={held_out}"]
    encode.main(["encode", *arguments(one, autoencoder, output / "one", *flags)])
    assert ArrayRecordSource(output / "one" / "held_out").manifest["records"] == 2
    encode.main(["encode", *arguments(one, autoencoder, output / "one", *flags)])
    assert capsys.readouterr().out.count("holds these latents already") == 2

    prepared(data / "two", words, count=2)
    config = config_of(data, groups={"one": 1.0, "two": 2.0})
    assert set(encode.corpus.folders(config)) == {"one", "two"}
    with pytest.raises(ConfigError, match="one holds no latents; run `unireason encode` on it"):
        Run.of(config).pipeline(whole=True)
    config.data.groups.two = 0.0
    config.data.update({"source": str(output), "held_out": str(held_out)})
    pipeline = Run.of(config).pipeline(whole=True)
    assert np.isfinite(next(pipeline)["latents"]).all()
    pipeline.close()
    with pytest.raises(ConfigError, match="held_out holds no latents"):
        Run.of(config).pipeline(held_out=True, whole=True)


def test_parquet_and_array_records_are_trained_on_as_they_are(autoencoder, small_images, tmp_path):
    """The same batches as from the folder that `prepare` makes of them."""
    rng, rows = np.random.default_rng(0), []
    for number in range(12):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(file, "PNG")
        captions = {"short": f"house {number}", "long": f"a house with {number} doors"}
        rows.append({"image": file.getvalue(), "captions": json.dumps(captions)})
    table, folder = tmp_path / "rows.parquet", tmp_path / "prepared"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table, row_group_size=5)
    sizes = ["--format=bagel_t2i", "--sizes=unireason"]
    prepare.main(["prepare", f"--input={table}", f"--output={folder}", *sizes])
    source, others = ArrayRecordSource(folder), tmp_path / "others"
    others.mkdir()
    writer = ArrayRecordWriter(str(others / "part.array_record"), "group_size:1")
    for index in range(len(source)):
        writer.write(serialization.to_bytes(source[index]))
    writer.close()
    batches = []
    given = {"tokenizer": str(folder / "tokenizer"), "sizes": "unireason", "vae": str(autoencoder)}
    for path in (folder, table, others):
        pipeline = Run.of(config_of(path, **given)).pipeline(whole=True)
        batches.append(next(pipeline))
        pipeline.close()
    assert np.abs(batches[0]["latents"]).sum() > 1000
    for other in batches[1:]:
        for name, values in batches[0].items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
    with pytest.raises(ConfigError, match=r"data\.sizes is 'huge'; use one of world, bagel"):
        Run.of(config_of(table, sizes="huge"))


def test_groups_of_other_words_or_sizes_are_refused(tmp_path):
    one = prepared(tmp_path / "data" / "one", "--sizes=world", size=(32, 32), count=2)
    prepared(tmp_path / "data" / "two", "--sizes=world", size=(32, 32), count=4)
    config = config_of(one.parent, groups={"one": 1.0, "two": 1.0})
    with pytest.raises(ConfigError, match=r"one/tokenizer and .*two/tokenizer differ; prepare all"):
        Run.of(config)
    words = f"--tokenizer={one / 'tokenizer'}"
    prepared(one.parent / "two", words, "--sizes=bagel", "--overwrite", count=2)
    with pytest.raises(ConfigError, match=r"prepared with the sizes \['bagel', 'world'\]"):
        Run.of(config)


def test_what_cannot_be_encoded_is_said(autoencoder, small_images, tmp_path):
    one = prepared(tmp_path / "one", count=2)
    encode.main(
        ["encode", f"--input={one}", f"--vae={autoencoder}", f"--output={tmp_path / 'two'}"]
    )
    world = ["encode", "--config=configs/tiny.py", f"--output={tmp_path / 'three'}"]
    for command, message in (
        (world, "config.data.source is the world"),
        ([*world, "--config.data.sorce=x"], "unknown config key 'data.sorce'; did you mean data.s"),
        ([*world, f"--input={one}"], "--output DIR, and --input DIR or --config FILE"),
        (
            ["encode", f"--input={tmp_path / 'two'}", f"--output={tmp_path / 'three'}"],
            "two holds latents already; give the folder of its images",
        ),
    ):
        with pytest.raises(SystemExit, match=f"encode: .*{message}"):
            encode.main(command)
    assert not (tmp_path / "three").exists()


def contents(folder):
    """Every file of a folder, and the hash of its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def joined(command):
    """The exit statuses of two joined processes that run a command."""
    said = []
    job = LocalJob(
        [sys.executable, *command],
        processes=2,
        devices=1,
        sink=lambda number, line: said.append(f"[{number}] {line}"),
        directory=REPOSITORY,
    )
    return job.wait(grace=3, timeout=900), "".join(said)


@pytest.mark.slow
def test_two_processes_share_the_shards_and_go_on_after_a_kill(autoencoder, tmp_path):
    """Long and low images, so that the released sizes are cheap."""
    pixels = prepared(tmp_path / "pixels", "--shard_records=1", size=(640, 10))
    encode.main(["encode", *arguments(pixels, autoencoder, tmp_path / "alone")])
    output = tmp_path / "joined"
    flags = arguments(pixels, autoencoder, output)
    statuses, said = joined(["-c", KILLER, *flags])
    assert statuses[1] == -signal.SIGKILL and statuses[0] != 0, said
    done = {path.name for path in output.glob("records-*.array_record")}
    assert {f"records-0000{n}.array_record" for n in (1, 3)} <= done
    assert not (output / "manifest.json").exists() and len(done) < 12
    statuses, said = joined(["-m", "unireason_jax.encode", *flags])
    assert statuses == [0, 0], said
    assert said.count("12 records with float16 latents in 12 shards") == 1
    assert contents(output) == contents(tmp_path / "alone")
