"""A full packed row without data, for what depends on who sees whom.

Shapes decide how a program is compiled, but useful FLOPs and the tiles a kernel walks depend on
the pack. The reference row is filled to its budgets by refinement traces of equal size.
"""

from collections.abc import Mapping
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from unireason_jax.data import rows, samples
from unireason_jax.data.janus.tokens import Builder as CodesBuilder
from unireason_jax.data.rows import Budgets
from unireason_jax.data.samples import Sample
from unireason_jax.models.chunked import Ids
from unireason_jax.models.config import BagelConfig, ModelConfig
from unireason_jax.models.flash import active_tiles, default_tiles, padded
from unireason_jax.models.janus.config import JanusConfig

IMAGE = 4096  # latent tokens of a 1024 x 1024 image


def patch_sizes(model: ModelConfig) -> tuple[int, int]:
    """Features of a ViT patch (0 without a tower) and of a latent token (0 for codes)."""
    latent = 0 if isinstance(model, JanusConfig) else model.latent.features
    return 3 * model.vit.patch**2 if model.vit else 0, latent


def reference_row(model: ModelConfig, budgets: Budgets) -> dict[str, np.ndarray]:
    """The arrays [1, ...] of a row that refinement traces fill exactly."""
    by_codes = isinstance(model, JanusConfig)
    traces = (_by_codes if by_codes else _by_flow)(model, budgets)
    row = rows.assemble(traces, budgets, patch_sizes(model), by_codes=by_codes)
    return {name: values[None] for name, values in row.items()}


def _share(total: int, parts: int, number: int) -> int:
    """One of some parts of a whole, as equal as whole numbers can be."""
    return total * (number + 1) // parts - total * number // parts


def _controls(model: ModelConfig) -> SimpleNamespace:
    """Some control ids; which ones is of no account."""
    vocab = model.llm.vocab
    return SimpleNamespace(bos=vocab - 4, eos=vocab - 3, soi=vocab - 2, eoi=vocab - 1)


def _by_codes(model: JanusConfig, budgets: Budgets) -> list[Sample]:
    """Traces of a model that draws with codes, as many as its row has room for pictures.

    A trace: a supervised plan, a picture's codes as targets, the same as the tower sees it, a
    supervised reflection.
    """
    side = model.vit.side if model.vit else 0
    pictures = max(budgets.latent // model.codes.count, budgets.vit // max(side**2, 1), 1)
    spec = SimpleNamespace(tokenizer=_controls(model), vit_patch=model.vit.patch if side else 0)
    traces = []
    for number in range(pictures):
        build = CodesBuilder(spec)
        codes, seen = (
            _share(budgets.latent, pictures, number),
            _share(budgets.vit, pictures, number),
        )
        words = _share(budgets.text, pictures, number) - 2 * (bool(codes) + bool(seen))
        for part in range(2):
            texts = _share(words, 2, part)
            build.words([0] * min(texts, 1))
            build.words([0] * (texts - 1), 1.0)
            if part == 0 and codes:
                build.draw(np.zeros(codes, np.int32), 1.0)
            if part == 0 and seen:
                patches = np.zeros((seen, patch_sizes(model)[0]), np.float32)
                build.look(patches, np.arange(seen, dtype=np.int32) % side**2)
        traces.append(build.finish(f"reference {number}", blank=False))
    return traces


def _by_flow(model: BagelConfig, budgets: Budgets) -> list[Sample]:
    """Traces of a model that draws by flow.

    A trace: a supervised plan, a draft as flow target, its clean copy and its ViT copy, a
    supervised reflection, the refined image as flow target. There are as many traces as images of
    1024 x 1024 fit three times into the latent budget, at least one; a trace's images share its
    part of the latent and ViT budgets.
    """
    widths, controls = patch_sizes(model), _controls(model)
    traces, sequences = max(1, budgets.latent // (3 * IMAGE)), []
    for trace in range(traces):
        build = samples.Builder(controls, widths)
        latent, vit = _share(budgets.latent, traces, trace), _share(budgets.vit, traces, trace)
        images = min(3, latent)
        # Two markers for every copy of an image; bos and eos are words of the texts here.
        words = _share(budgets.text, traces, trace) - 2 * (images + bool(vit))
        sizes = [_share(latent, images, i) for i in range(images)]
        before = words // 2 if images > 1 else words
        _text(build, before)
        for number, tokens in enumerate(sizes):
            values = np.zeros((tokens, widths[1]), np.float32)
            places = np.arange(tokens, dtype=np.int32) % model.latent.side**2
            if number == 1:
                build.clean(values, places, "none")
                if vit:
                    cells = np.arange(vit, dtype=np.int32) % model.vit.side**2
                    build.vit(np.zeros((vit, widths[0]), np.float32), cells, "none")
                _text(build, words - before)
            else:
                build.target(values, places, "none", weight=1.0, logit=0.0, seed=trace)
        sequences.append(build.finish(f"reference {trace}"))
    return sequences


def _text(build: samples.Builder, words: int) -> None:
    """A supervised text, if there is room for one."""
    if words > 1:
        build.text([0] * words, 1.0, "none")


def tile_counts(
    row: Mapping[str, np.ndarray], model: ModelConfig, parts: int
) -> dict[tuple[int, int], dict[str, float]]:
    """What the flash kernel walks in the reference row.

    Args:
      row: the result of `reference_row`.
      model: the model's shape.
      parts: over how many devices the queries of a row are divided (the `context` axis).

    Returns:
      By (queries, keys) of a call, in tokens of one device after padding to tiles: {"walked",
      "needed": tiles walked and tiles that hold anything visible, "all": tiles there are, "pairs":
      visible pairs as a fraction of all}, means over the devices that share a row; and "most":
      tiles that the busiest of them walks.
    """
    text, vit = row["text_ids"].shape[1], row["vit_images"].shape[1]
    whole = Ids(row["vis_lo"], row["vis_hi"], row["vis_own"], row["vis_key"])
    images, group = row["vit_images"], model.llm.heads // model.llm.kv_heads
    experts = [whole]  # the blocks of a row that each have weights of their own
    if "latents" in row:
        blocks = slice(text + vit), slice(text + vit, None)
        experts = [Ids(*(x[:, block] for x in whole[:3]), whole.key) for block in blocks]
    calls = [(ids, group) for ids in experts] + [(Ids(images, images, images, images), 1)]
    found: dict[tuple[int, int], dict[str, float]] = {}
    for ids, heads in calls:
        queries = ids.lo.shape[1]
        if not queries:
            continue
        cut = parts if queries % parts == 0 else 1
        counted = []
        for part in range(cut):
            inside = slice(part * queries // cut, (part + 1) * queries // cut)
            local = Ids(*(jnp.asarray(x[:, inside]) for x in ids[:3]), jnp.asarray(ids.key))
            size, counts = _count(local, heads)
            counted.append(counts)
        means = {key: sum(counts[key] for counts in counted) / cut for key in counted[0]}
        found[size] = means | {"most": max(counts["walked"] for counts in counted)}
    return found


def _count(ids: Ids, group: int) -> tuple[tuple[int, int], dict[str, float]]:
    """Padded (queries, keys) of one call, and its numbers of tiles and pairs."""
    tiles = default_tiles(group, ids.lo.shape[1], ids.key.shape[1])
    ids = padded(ids, tiles)
    lo, hi, own, key = (np.asarray(x[0]) for x in ids)
    walked = np.asarray(active_tiles(ids, tiles))[0]
    needed, pairs = 0, 0
    for start in range(0, len(lo), tiles.queries):
        part = slice(start, start + tiles.queries)
        real = lo[part, None] >= 0
        seen = (lo[part, None] <= key) & (key <= hi[part, None]) | (key == own[part, None])
        seen &= real
        pairs += int(seen.sum())
        needed += int(seen.reshape(tiles.queries, -1, tiles.keys).any((0, 2)).sum())
    counts = {"walked": int(walked.sum()), "needed": needed, "all": walked.size}
    return (len(lo), len(key)), counts | {"pairs": pairs / (len(lo) * len(key))}
