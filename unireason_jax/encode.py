"""Encode the images of a prepared folder once, so that training streams latents.

    unireason encode --input data/train --output data/latents --vae ae.safetensors
    unireason encode --input data/world --output data/world_latents     the world's own codec

The frozen autoencoder runs over all devices, batch after batch of images of one size, and compiles
once for each size (the sizes with `_buckets` have nine). Stored are the moments of the posterior,
not samples: training draws a new sample from them at every step, with the example's own key, and
gets what encoding on the fly would have given it, up to the precision of storage. Images that no
ViT looks at are left out of the result.

The output is a prepared folder like the input, and is read in its place. An interrupted run goes on
when the same command is given again.
"""

import collections
import dataclasses
import functools
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from unireason_jax import command_line, sharding
from unireason_jax.data import latents, shards, storage
from unireason_jax.data.records import Record
from unireason_jax.data.sequence import LatentCodec, SequenceSpec, latent_pixels, lengths
from unireason_jax.data.shards import Kept
from unireason_jax.data.sizes import SIZES
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.tokenizer import load_tokenizer
from unireason_jax.models import vae
from unireason_jax.world.basis import PatchBasis


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv` (program name first); errors are one line and exit status 1."""
    options = _flags()
    try:
        if not command_line.parse(options, argv, __doc__):
            return
        if not options.input or not options.output:
            raise ValueError("say what to encode and where to write: --input DIR --output DIR")
        codec = PatchBasis.create()
        if options.vae:
            codec = vae.Autoencoder(*vae.load(options.vae))
        print(
            encode(
                Path(options.input),
                Path(options.output),
                codec,
                dtype=options.dtype,
                batch=options.batch,
                overwrite=options.overwrite,
            )
        )
    except (flags.Error, ValueError, OSError) as error:
        sys.exit(f"encode: {error}")


def encode(
    folder: Path,
    output: Path,
    codec: LatentCodec,
    *,
    dtype: str = "float16",
    batch: int = 1,
    overwrite: bool = False,
) -> str:
    """Writes the records of a prepared folder with moments of their latents into `output`.

    Args:
      folder: what `prepare` wrote.
      output: new folder, or an earlier one.
      codec: the autoencoder; must be of the stride and channels of the folder's sizes.
      dtype: of the stored moments, a name in `storage.DTYPES`.
      batch: images a device encodes at a time.
      overwrite: replace an earlier result.

    Returns:
      A report of one line.

    Raises:
      FileNotFoundError: `folder` is not prepared.
      FileExistsError: `output` holds a result, or an interrupted run of another request.
      ValueError: the codec does not fit the folder's sizes.
    """
    source = ArrayRecordSource(folder)
    sizes = SIZES[source.manifest["sizes"]]
    made_for = sizes["codec"]
    if (made_for.stride, made_for.channels) != (codec.stride, codec.channels):
        raise ValueError(
            f"{folder} was measured for latents of {made_for.channels} channels at stride "
            f"{made_for.stride}, not {codec.channels} at {codec.stride}; give the right --vae, or "
            "prepare it with other --sizes"
        )
    about = {"codec": type(codec).__name__, "dtype": dtype, "probe": latents.probe(codec)}
    shards.begin(output, {"source": repr(source), **about}, overwrite=overwrite)
    shutil.copytree(folder / "tokenizer", output / "tokenizer", dirs_exist_ok=True)
    spec = SequenceSpec(load_tokenizer(folder / "tokenizer"), **sizes | {"codec": codec})
    encoder = Encoder(codec, batch)
    job = Encoding(source, spec, encoder, dtype)
    ends = np.cumsum([0, *(shard["records"] for shard in source.manifest["shards"])]).tolist()
    tasks = [(range(a, b), b - a) for a, b in itertools.pairwise(ends)]
    shards.build(output, tasks, job, about="encoding")
    manifest = shards.finish(
        output, {"source": repr(source), "sizes": source.manifest["sizes"], "latents": about}
    )
    return (
        f"{manifest['records']} records with {dtype} latents in {len(manifest['shards'])} shards "
        f"of {output}, {manifest['bytes'] / 2**20:.1f} MiB; {len(encoder.sizes)} image sizes"
    )


class Encoder:
    """A frozen autoencoder over all devices.

    Attributes:
      rows: images in a batch.
      sizes: (height, width) it has seen, each compiled once.
    """

    def __init__(self, codec: LatentCodec, batch: int = 1):
        """Places the weights; `batch` images go to each device."""
        self.codec = codec
        self.sizes: set[tuple[int, int]] = set()
        self.rows = batch * jax.device_count()
        if isinstance(codec, vae.Autoencoder):
            mesh = sharding.make_mesh()
            self._images = sharding.batch_sharding(mesh)
            self._params = jax.device_put(codec.params, sharding.replicated(mesh))
            self._moments = jax.jit(functools.partial(vae.moments, config=codec.config))

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Moments float32 [n, 2, h, w, C] of up to `rows` pictures uint8 [H, W, 3] of one size."""
        self.sizes.add(pictures[0].shape[:2])
        if not isinstance(self.codec, vae.Autoencoder):
            return np.stack([np.stack(self.codec.encode(picture)) for picture in pictures])
        padding = [np.zeros_like(pictures[0])] * (self.rows - len(pictures))
        pixels = vae.to_float(np.stack([*pictures, *padding]))
        found = self._moments(self._params, images=jax.device_put(pixels, self._images))
        return np.stack(jax.device_get(found), 1)[: len(pictures)]


@dataclasses.dataclass(frozen=True)
class Encoding:
    """The job of one shard: its records with moments, in order.

    Attributes:
      source: the records.
      spec: sizes and codec.
      encoder: runs the codec.
      dtype: of the stored moments.
    """

    source: ArrayRecordSource
    spec: SequenceSpec
    encoder: Encoder
    dtype: str

    def __call__(self, indices: range) -> Iterator[Kept]:
        """A batch runs as soon as it is full, and what is left at the end of the shard."""
        queue: collections.deque[_Entry] = collections.deque()
        waiting: dict[tuple[int, ...], list] = {}
        for index in indices:
            record = self.source[index]
            numbers = [n for n, s in enumerate(record.segments) if latents.needs_latents(s)]
            entry = _Entry(record, len(numbers), {})
            queue.append(entry)
            for number in numbers:
                picture = latent_pixels(record.segments[number].image, self.spec)
                batch = waiting.setdefault(picture.shape, [])
                batch.append((entry, number, picture))
                if len(batch) == self.encoder.rows:
                    self._run(batch)
            while queue and len(queue[0].moments) == queue[0].images:
                yield self._kept(queue.popleft())
        for batch in filter(None, waiting.values()):
            self._run(batch)
        yield from map(self._kept, queue)

    def _run(self, batch: list) -> None:
        """Encodes a batch into its entries and empties it."""
        found = self.encoder([picture for _, _, picture in batch])
        for (entry, number, _), values in zip(batch, found):
            entry.moments[number] = values
        batch.clear()

    def _kept(self, entry: "_Entry") -> Kept:
        record = latents.with_moments(entry.record, entry.moments, self.dtype)
        counts = (f"template {record.source}", f"licence {record.licence or 'unknown'}")
        return Kept(storage.to_bytes(record), lengths(record, self.spec), counts)


class _Entry(NamedTuple):
    """A record, how many of its images need latents, and the moments found so far."""

    record: Record
    images: int
    moments: dict[int, np.ndarray]


def _flags() -> flags.FlagValues:
    own = flags.FlagValues()
    flags.DEFINE_string("input", None, "folder that prepare wrote", flag_values=own)
    flags.DEFINE_string("output", None, "folder to write", flag_values=own)
    flags.DEFINE_string("vae", None, "official ae.safetensors [the world's]", flag_values=own)
    flags.DEFINE_enum(
        "dtype", "float16", sorted(storage.DTYPES), "of the stored moments", flag_values=own
    )
    flags.DEFINE_integer("batch", 1, "images a device encodes at a time", 1, flag_values=own)
    flags.DEFINE_bool("overwrite", False, "replace an earlier result", flag_values=own)
    return own


if __name__ == "__main__":
    main(sys.argv)
