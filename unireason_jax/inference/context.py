"""The contexts of one batch: what every row has seen, and the poorer copies that guide drawing.

Up to three caches of the same rows: the full context, the one without text, the one without
images. A poorer context exists only where it differs and its guidance scale is on. Lengths are
rounded up to few sizes, so that a whole evaluation compiles a handful of programs.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unireason_jax import flow, sharding
from unireason_jax.data import sequence
from unireason_jax.data.sequence import SequenceSpec
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.inference.cache import Cache, Markers
from unireason_jax.inference.sampler import FlowSettings, TextSettings

FULL, TEXT_FREE, IMAGE_FREE = "full", "text_free", "image_free"
TEXT_FREE_RULES = ("all", "last")
FEWEST_SLOTS, FEWEST_TOKENS = 64, 32


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A model ready to sample.

    Attributes:
      config: `BagelConfig`.
      params: its parameters.
      spec: tokenizer, codec and sizes, the same as in training.
      mesh: where rows are spread over `data` and `fsdp`; None keeps everything on one device.
    """

    config: Any
    params: Any
    spec: SequenceSpec
    mesh: Mesh | None = None

    @property
    def markers(self) -> Markers:
        """The four control ids."""
        t = self.spec.tokenizer
        return Markers(bos=t.bos, eos=t.eos, soi=t.soi, eoi=t.eoi)

    def place(self, array: Any) -> jax.Array:
        """A [B, ...] host array on the device or, with its rows spread, on the mesh."""
        if self.mesh is None:
            return jnp.asarray(array)
        return jax.device_put(array, sharding.batch_sharding(self.mesh))

    def empty(self, rows: int, slots: int) -> Cache:
        """An empty cache, its rows spread over the mesh."""
        cache = caches.empty(self.config, rows, slots)
        if self.mesh is None:
            return cache
        spread = ("data", "fsdp")
        wide = NamedSharding(self.mesh, PartitionSpec(None, spread))
        flat = NamedSharding(self.mesh, PartitionSpec(spread))
        return jax.device_put(cache, Cache(k=wide, v=wide, lengths=flat, positions=flat))

    def rows_for(self, count: int, most: int) -> int:
        """Rows of the batches for `count` requests, at most `most` (rounded up) at a time.

        A power of two and a multiple of the mesh; few sizes mean few compiled programs.
        """
        parts = 1 if self.mesh is None else sharding.row_parts(self.mesh)
        rows = min(bucket(count, 1), bucket(most, 1))
        return -(-rows // parts) * parts


class Context:
    """The growing contexts of B rows. Rows given as None stay as they are."""

    def __init__(self, engine: Engine, rows: int, *, flow: FlowSettings, text_free: str = "all"):
        """Nothing seen yet.

        Args:
          engine: the model.
          rows: B.
          flow: its scales decide which poorer contexts are kept.
          text_free: what the context without text lacks: "all" texts (BAGEL's evaluation scripts),
            or only the "last" one (BAGEL's interleaved inference).
        """
        if text_free not in TEXT_FREE_RULES:
            raise ValueError(f"text_free is {text_free!r}; use one of {TEXT_FREE_RULES}.")
        self.engine, self.rows, self.flow, self.rule = engine, rows, flow, text_free
        self.branches = {FULL: engine.empty(rows, FEWEST_SLOTS)}
        self.lengths = {FULL: np.zeros(rows, np.int64)}
        if flow.text_scale > 1:
            self.branches[TEXT_FREE] = engine.empty(rows, FEWEST_SLOTS)
            self.lengths[TEXT_FREE] = np.zeros(rows, np.int64)

    def text(self, rows: Sequence[Sequence[int] | None]) -> None:
        """Appends a text turn [bos, ..., eos] to each row."""
        self._before_text()
        for name in (FULL, IMAGE_FREE):
            self._prefill(name, rows)

    def write(
        self, active: np.ndarray, seeds: np.ndarray, settings: TextSettings, limit: int
    ) -> list[tuple[list[int], str, bool] | None]:
        """Lets the model write a text turn in the active rows.

        Args:
          active: [B] bool.
          seeds: [B] uint32.
          settings: how tokens are chosen.
          limit: most tokens between bos and eos.

        Returns:
          Per row (ids without markers, hand-over "text" | "image" | "stop", whether the limit ended
          it), or None for an inactive row.
        """
        self._before_text()
        room = bucket(limit, FEWEST_TOKENS)
        self._fit(FULL, room + 2)
        engine, markers = self.engine, self.engine.markers
        cache, drawn = sampler.write_text(
            engine.params,
            self.branches[FULL],
            engine.place(active),
            engine.place(seeds.astype(np.uint32)),
            np.int32(limit),
            np.float32(settings.temperature),
            np.float32(settings.top_p),
            config=engine.config,
            markers=markers,
            vocab=engine.spec.tokenizer.vocab_size,
            max_tokens=room,
            greedy=settings.temperature == 0,
        )
        self.branches[FULL] = cache
        ids, counts, handover, cut = (np.asarray(x) for x in drawn)
        self.lengths[FULL] += np.where(active, counts + 2, 0)
        self._fit(FULL, 0)
        words = {markers.bos: "text", markers.soi: "image", markers.eos: "stop"}
        out: list = [None] * self.rows
        for row in np.flatnonzero(active):
            out[row] = ids[row, : counts[row]].tolist(), words[int(handover[row])], bool(cut[row])
        turns = [None if row is None else [markers.bos, *row[0], markers.eos] for row in out]
        self._prefill(IMAGE_FREE, turns)
        return out

    def image(self, rows: Sequence[np.ndarray | None], *, gen: bool, und: bool) -> None:
        """Shows an image (uint8 [H, W, 3]) to each row as clean latents and / or ViT patches."""
        shown = np.array([row is not None for row in rows])
        if self.flow.image_scale > 1 and TEXT_FREE in self.branches:
            self.branches.setdefault(IMAGE_FREE, jax.tree.map(jnp.copy, self.branches[FULL]))
            self.lengths.setdefault(IMAGE_FREE, self.lengths[FULL].copy())
        kinds = [(gen, sequence.latent_tokens, sampler.prefill_latents)]
        kinds += [(und and self.engine.spec.vit_patch, sequence.vit_tokens, sampler.prefill_vit)]
        for wanted, tokens_of, prefill in kinds:
            if not wanted:
                continue
            tokens = [None if row is None else tokens_of(row, self.engine.spec) for row in rows]
            self._image(tokens, prefill)
            if IMAGE_FREE in self.branches:
                cache = self.branches[IMAGE_FREE]
                self.branches[IMAGE_FREE] = caches.advance(cache, self.engine.place(shown))

    def draw(
        self, active: np.ndarray, seeds: np.ndarray, grids: Sequence[tuple[int, int]]
    ) -> tuple[list[np.ndarray | None], int]:
        """Draws an image in every active row from what it has seen.

        Args:
          active: [B] bool.
          seeds: [B] uint32, of the noise.
          grids: latent tokens (rows, columns) per row.

        Returns:
          Per row the scaled latents float32 [h, w, C] or None, and the passes each image cost.
        """
        engine, spec = self.engine, self.engine.spec
        places = [
            sequence.images.positions(*grid, spec.latent_side, spec.interpolate) for grid in grids
        ]
        counts = np.where(active, [len(p) for p in places], 0).astype(np.int32)
        positions = _padded(places, np.int32)
        spread = engine.place(positions)
        seeds = np.broadcast_to(seeds.astype(np.uint32)[:, None], positions.shape)
        noise = _noise(engine.place(seeds), spread, spec.patch_sizes[1])
        names = [name for name in (FULL, TEXT_FREE, IMAGE_FREE) if name in self.branches]
        slots = max(self._fit(name, 0) for name in names)
        branches = tuple(caches.resize(self.branches[name], slots) for name in names)
        scales = [np.full(self.rows, s) for s in (self.flow.text_scale, self.flow.image_scale)]
        latents = sampler.draw_image(
            engine.params,
            branches,
            noise,
            spread,
            engine.place(counts),
            tuple(engine.place(s.astype(np.float32)) for s in scales),
            config=engine.config,
            markers=engine.markers,
            settings=dataclasses.replace(self.flow, text_scale=0.0, image_scale=0.0),
        )
        latents = np.asarray(latents)
        out: list[np.ndarray | None] = [None] * self.rows
        for row in np.flatnonzero(active):
            height, width = grids[row]
            tokens = latents[row, : height * width]
            patch = spec.latent_patch
            out[row] = sequence.images.unpatchify(tokens, rows=height, columns=width, patch=patch)
        return out, self.flow.forwards(len(names))

    def _before_text(self) -> None:
        """With the rule "last", the context without text is the one before this text."""
        if self.rule == "last" and TEXT_FREE in self.branches:
            self.branches[TEXT_FREE] = jax.tree.map(jnp.copy, self.branches[FULL])
            self.lengths[TEXT_FREE] = self.lengths[FULL].copy()

    def _prefill(self, name: str, rows: Sequence[Sequence[int] | None]) -> None:
        """Appends text turns to one branch, if it exists."""
        if name not in self.branches:
            return
        counts = np.array([len(row or ()) for row in rows], np.int32)
        room = bucket(int(counts.max()), FEWEST_TOKENS)
        ids = np.zeros((self.rows, room), np.int32)
        for target, row in zip(ids, rows):
            target[: len(row or ())] = row or ()
        self.lengths[name] += counts
        self._fit(name, 0)
        place, engine = self.engine.place, self.engine
        self.branches[name] = sampler.prefill_text(
            engine.params, self.branches[name], place(ids), place(counts), config=engine.config
        )

    def _image(self, tokens: Sequence[tuple[np.ndarray, np.ndarray] | None], prefill: Any) -> None:
        """Appends image tokens (features, positions) to the branches that see images."""
        width = next(t[0].shape[1] for t in tokens if t is not None)
        nothing = np.zeros((0, width), np.float32), np.zeros(0, np.int32)
        tokens = [nothing if t is None else t for t in tokens]
        counts = np.array([len(places) for _, places in tokens], np.int32)
        features = _padded([f for f, _ in tokens], np.float32)
        positions = _padded([p for _, p in tokens], np.int32)
        place, engine = self.engine.place, self.engine
        for name in (FULL, TEXT_FREE):
            if name in self.branches:
                self.lengths[name] += np.where(counts, counts + 2, 0)
                self._fit(name, 0)
                self.branches[name] = prefill(
                    engine.params,
                    self.branches[name],
                    place(features),
                    place(positions),
                    place(counts),
                    config=engine.config,
                    markers=engine.markers,
                )

    def _fit(self, name: str, extra: int) -> int:
        """Gives a branch room for its rows and `extra` tokens; returns its slots."""
        slots = bucket(int(self.lengths[name].max()) + extra, FEWEST_SLOTS)
        if self.branches[name].slots != slots:
            self.branches[name] = caches.resize(self.branches[name], slots)
        return slots


def bucket(count: int, lowest: int) -> int:
    """The smallest power of two that is at least `count` and `lowest`."""
    return 1 << (max(count, lowest, 1) - 1).bit_length()


@functools.partial(jax.jit, static_argnums=2)
def _noise(seeds: jax.Array, positions: jax.Array, features: int) -> jax.Array:
    """Jitted `flow.token_noise`."""
    return flow.token_noise(seeds, positions, features)


def _padded(rows: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """Arrays [n_i, ...] as one [B, max n_i, ...], zeros behind."""
    longest = max(len(row) for row in rows)
    out = np.zeros((len(rows), longest, *rows[0].shape[1:]), dtype)
    for target, row in zip(out, rows):
        target[: len(row)] = row
    return out
