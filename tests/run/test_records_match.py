"""A run goes on only with the words, sizes and autoencoder that its weights have learned."""

import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.test_train import SMALL, TINY
from unireason_jax import train
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer, world_tokenizer
from unireason_jax.models import functional
from unireason_jax.run import configuration, initial_state, records_match
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training.checkpoint import epath
from unireason_jax.training.optim import flatten


@pytest.fixture(scope="module")
def made():
    return Run.of(configuration.load(TINY, SMALL))


@pytest.fixture
def run(made, tmp_path):
    """The folder of a run as it is after its first checkpoint, without the arrays."""
    folder = tmp_path / "run"
    made.save(folder)
    records_match.save(made, folder)
    (folder / "checkpoints" / "4").mkdir(parents=True)
    return folder


def started(**changes):
    return Run.of(configuration.load(TINY, SMALL | changes))


def starts(key, run, tmp_path):
    """(experiment, workdir) of a run that takes its weights from `run`."""
    if key == "workdir":
        return started(), run
    return started(**{key: str(run)}), tmp_path / "new"


@pytest.mark.parametrize("key", ["workdir", "resume_from", "init_from"])
def test_the_same_words_and_autoencoder_pass(key, run, tmp_path):
    records_match.check(*starts(key, run, tmp_path))
    records_match.check(started(init_from="scratch"), tmp_path / "new")


@pytest.mark.parametrize("key", ["workdir", "resume_from", "init_from"])
@pytest.mark.parametrize("where", ["", "checkpoints"])
def test_other_words_are_refused_before_anything_is_written(key, where, run, tmp_path):
    words = [*world_tokenizer().words, "zebra"]
    SentencePieceTokenizer.train((), words).save(run / "tokenizer")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    ours, workdir = starts(key, run / where if key != "workdir" else run, tmp_path)
    with pytest.raises(
        ConfigError, match=r"tokenizer is not that of the weights.*pieces here"
    ) as e:
        records_match.check(ours, workdir)
    assert f"--tokenizer={run}/tokenizer" in str(e.value)
    assert ("workdir" if key == "workdir" else f"--config.{key}") in str(e.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert not (tmp_path / "new").exists()


def continued(run, tmp_path, key):
    """A run whose words go on behind those of `run`, (run, workdir)."""
    world_tokenizer(hard=4).save(tmp_path / "words")
    words = {"data.tokenizer": str(tmp_path / "words")}
    if key == "workdir":
        return started(**words), run
    return started(**words, **{key: str(run)}), tmp_path / "new"


def test_words_behind_those_of_init_from_pass_and_are_learned_anew(run, tmp_path):
    ours, workdir = continued(run, tmp_path, "init_from")
    records_match.check(ours, workdir)
    before = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), functional.abstract(ours.model))
    known, size = world_tokenizer().vocab_size, ours.tokenizer.vocab_size
    assert known < size
    with jax.set_mesh(ours.mesh):
        after = initial_state.with_new_words(ours, before)
    found = flatten(after)
    assert [name for name in found if np.any(found[name])] == ["embed", "head/kernel"]
    for rows in (after["embed"], after["head"]["kernel"].T):
        assert not np.any(rows[:known]) and np.all(np.any(rows[known:], axis=1))


@pytest.mark.parametrize("key", ["workdir", "resume_from"])
def test_words_behind_are_refused_where_a_run_goes_on(key, run, tmp_path):
    with pytest.raises(ConfigError, match="tokenizer is not that of the weights"):
        records_match.check(*continued(run, tmp_path, key))


def test_fewer_words_than_the_weights_know_are_refused(run, tmp_path):
    world_tokenizer(hard=4).save(run / "tokenizer")
    with pytest.raises(ConfigError, match="tokenizer is not that of the weights"):
        records_match.check(started(init_from=str(run)), tmp_path / "new")


def test_weights_of_the_same_words_are_taken_as_they_are(run):
    ours = started(init_from=str(run))
    before = {"embed": np.zeros(1)}
    assert initial_state.with_new_words(ours, before) is before


def test_another_kind_of_tokenizer_is_refused(run, made, data_goldens):
    shutil.rmtree(run / "tokenizer")
    shutil.copytree(data_goldens / "tokenizer", run / "tokenizer")
    with pytest.raises(ConfigError, match="one is of words, the other of bytes"):
        records_match.check(made, run)


def test_the_same_words_in_another_file_pass(run, made, tmp_path):
    """Compared is what a tokenizer does: a file of the library's next version is no other one."""
    file = run / "tokenizer" / SentencePieceTokenizer.FILE
    model = SentencePieceTokenizer.train((), world_tokenizer().words)
    assert model.words == made.tokenizer.words
    file.write_bytes(file.read_bytes() + b"\xfa\x3e\x01x")  # an unknown field
    assert SentencePieceTokenizer.load(run / "tokenizer").words == made.tokenizer.words
    records_match.check(made, run)


@pytest.mark.parametrize("key", ["workdir", "resume_from", "init_from"])
def test_another_codec_is_refused(key, run, tmp_path):
    arrays = dict(np.load(run / "codec.npz"))
    np.savez(run / "codec.npz", **arrays | {"scale": arrays["scale"] * 2})
    with pytest.raises(ConfigError, match="autoencoder is not that of the weights"):
        records_match.check(*starts(key, run, tmp_path))


def test_other_image_sizes_are_refused_when_a_run_goes_on(run, tmp_path):
    (run / "data.json").write_text(json.dumps({"sizes": "bagel", "latents": []}))
    for key in ("workdir", "resume_from"):
        with pytest.raises(ConfigError, match=r"image sizes world, .* bagel"):
            records_match.check(*starts(key, run, tmp_path))
    records_match.check(*starts("init_from", run, tmp_path))  # a second stage at other sizes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sizes": "world", "latents": 3}', "\x00"])
def test_a_damaged_note_is_named(run, made, text):
    (run / "data.json").write_text(text)
    with pytest.raises(ConfigError, match=r"data\.json is damaged; remove it"):
        records_match.check(made, run)


def test_runs_from_before_the_note_go_on(run, made):
    (run / "data.json").unlink()
    records_match.check(made, run)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("codec.npz", r"the codec cannot be read: .*codec\.npz"),
        ("tokenizer/sentencepiece.model", "not a"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(run, made, name, message):
    (run / name).write_bytes(b"PK\x03\x04 no")
    with pytest.raises(ValueError, match=message):
        records_match.check(made, run)


@pytest.mark.parametrize("dry", [False, True])
def test_train_compares_before_it_writes(run, monkeypatch, dry):
    """The run's own tokenizer stays as it is, and nothing is beside it."""
    SentencePieceTokenizer.train(["other words"]).save(run / "tokenizer")
    before = {path: path.is_file() and path.read_bytes() for path in run.rglob("*")}
    for flag, value in (("DRY_RUN", dry), ("SWEEP_INDEX", None), ("START_OVER", False)):
        monkeypatch.setattr(train, flag, SimpleNamespace(value=value))
    with pytest.raises(SystemExit, match="tokenizer is not that of the weights"):
        train.attempt(configuration.load(TINY, SMALL), epath.Path(run))
    assert before == {path: path.is_file() and path.read_bytes() for path in run.rglob("*")}
