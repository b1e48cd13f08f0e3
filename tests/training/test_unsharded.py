"""Neither building nor restoring a model of BAGEL's shape makes a weight whole on one device."""

import re

import jax
import numpy as np
import pytest

from unireason_jax import convert
from unireason_jax.models import archive, functional, huggingface, layers, official_names
from unireason_jax.models.config import variant
from unireason_jax.pods import sharding
from unireason_jax.training import checkpoint

# bagel_7b_mot with every width divided by 16 and two layers of each stack.
LLM = {"width": 224, "layers": 2, "heads": 28, "kv_heads": 4, "head_dim": 8}
CONFIG = variant(
    "bagel_7b_mot",
    llm=LLM | {"mlp": 1184, "vocab": 4752},
    vit={"width": 144, "layers": 2, "heads": 16, "mlp": 272, "side": 10},
)
SHAPES = functional.abstract(CONFIG)
BIG = 1 << 16  # elements above which a leaf must be divided; 16 M at full width


@pytest.fixture(scope="module")
def target():
    """Shardings of all leaves over 4 x 2 devices."""
    mesh = sharding.make_mesh({"fsdp": 4, "tensor": 2})
    return sharding.shardings(mesh, SHAPES, functional.logical_axes(CONFIG))


def test_every_large_weight_is_divided_by_all_devices(target):
    for leaf, place in zip(jax.tree.leaves(SHAPES), jax.tree.leaves(target)):
        parts = leaf.size // np.prod(place.shard_shape(leaf.shape))
        patches = leaf.shape[0] == 3 * CONFIG.vit.patch**2  # not narrowed with the widths
        assert leaf.size < BIG or parts == 8 or patches, leaf.shape


def test_the_program_that_draws_weights_holds_no_whole_weight(target, monkeypatch):
    monkeypatch.setattr(layers, "LONGEST_DRAW", BIG // 2)  # what small arrays share, in proportion
    init = jax.jit(functional.init, static_argnums=0, out_shardings=target)
    program = init.lower(CONFIG, jax.random.key(0)).compile().as_text()
    sizes = [
        np.prod([int(n) for n in shape.split(",")])
        for shape in re.findall(r"= [a-z0-9]+\[([\d,]+)\]", program)
    ]
    whole = [leaf.size for leaf in jax.tree.leaves(SHAPES)]
    shards = [
        np.prod(p.shard_shape(x.shape)) for x, p in zip(*map(jax.tree.leaves, (SHAPES, target)))
    ]
    assert max(shards) <= max(sizes) < max(whole) / 4


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A random release in shards."""
    folder = tmp_path_factory.mktemp("release")

    def read(path, layer):
        shape = official_names.at_path(SHAPES, path).shape
        rng = np.random.default_rng(len(path) + (layer or 0))
        return rng.normal(size=shape if layer is None else shape[1:]).astype("f4")

    huggingface.save(folder, CONFIG, read, shard_bytes=1 << 20)
    return folder


@pytest.mark.parametrize("source", ["release", "workdir"])
def test_restoring_reads_one_shard_at_a_time(source, release, target, tmp_path, monkeypatch):
    """What is read at once is a piece, and what is made of it a device's own part."""
    if source == "workdir":
        there = ["--from", "bagel", "--input", str(release), "--output", str(tmp_path / "w")]
        assert convert.main(there) == 0
    piece, runs, made = 1 << 14, [], []
    run, make = archive.Archive._run, jax.make_array_from_callback

    def watched_run(self, entry, start, count, name):
        runs.append(count * archive.DTYPES[entry.dtype].itemsize)
        return run(self, entry, start, count, name)

    def watched_make(shape, place, read):
        def reading(index):
            part = read(index)
            assert part.shape == place.shard_shape(shape), shape
            made.append(part.nbytes)
            return part

        return make(shape, place, reading)

    monkeypatch.setattr(archive, "_PIECE", piece)
    monkeypatch.setattr(archive.Archive, "_run", watched_run)
    monkeypatch.setattr(jax, "make_array_from_callback", watched_make)
    if source == "release":
        found = huggingface.load(release, CONFIG, shardings=target, dtype="bfloat16")
    else:
        found = checkpoint.load_params(tmp_path / "w", expected=SHAPES, shardings=target)
    assert max(runs) <= piece
    assert len(made) > 4 * len(jax.tree.leaves(SHAPES))  # all but the small ones in eight parts
    embed = found["embed"]
    assert {s.data.shape for s in embed.addressable_shards} == {(2376, 56)}
    stored = archive.Archive(huggingface.find_weights(release))
    official = stored.read("language_model.model.embed_tokens.weight")
    np.testing.assert_array_equal(np.asarray(embed).view(np.uint16), official.view(np.uint16))
