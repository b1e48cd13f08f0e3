"""Encode the images of prepared folders once, so that training streams latents.

    unireason encode --input data/train --output data/latents --vae ae.safetensors
    unireason encode --input data/world --output data/world_latents     the world's own codec
    unireason encode --config configs/unireason_stage2.py --config.data.vae=ae.safetensors \\
        --output data/stage2_latents     every folder that a config names

The frozen autoencoder runs over all devices, batch after batch of images of one size, and compiles
once for each size (the sizes with `_buckets` have nine). Stored are the moments of the posterior,
not samples: training draws a new sample from them at every step, with the example's own key, and
gets what encoding on the fly would have given it, up to the precision of storage. Images that no
ViT looks at are left out of the result.

The autoencoder is kept beside the latents, so that a run on them can draw. The output is a prepared
folder like the input, and is read in its place; with --config it holds one
for every group. An interrupted run goes on when the same command is given again. Several processes
(of a pod, or of launch/local.py) that see one output folder share the shards between them; the
result is the same for any number of them. Machines that know nothing of each other make `--share
i/n` each, and one command with `--finish` ends it (see `data.prepared.shares`).
"""

import collections
import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import config_flags

from unireason_jax.data.bagel import latents
from unireason_jax.data.bagel.tokens import LatentCodec, SampleSpec, latent_pixels, lengths
from unireason_jax.data.image_sizes import SIZES
from unireason_jax.data.prepared import serialization, shards, shares
from unireason_jax.data.prepared.shards import Kept
from unireason_jax.data.prepared.shares import Share
from unireason_jax.data.records import Record
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text.tokenizer import load_tokenizer
from unireason_jax.models import vae
from unireason_jax.pods import pod, sharding
from unireason_jax.run import command_line, compile_cache, corpus, drawing_assets, overrides
from unireason_jax.storage import paths
from unireason_jax.world.basis import PatchBasis

FORMS = (256, 512, 1024)
"""Pixels of the long edge that `configs/own_data.py` has a form for."""
_PATIENCE = 30 * 24 * 3600.0  # seconds that a process waits for the slowest one


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv` (program name first); errors are one line and exit status 1."""
    try:
        options = _flags(argv)
        if not command_line.parse(options, argv, __doc__, read=overrides.read_flags):
            return
        jobs, file = _request(options)
        share = shares.parse(options.share)
    except (flags.Error, ValueError, OSError) as error:
        sys.exit(f"encode: {error}")
    if sharding.initialize_distributed() == 1:
        compile_cache.share()
    with pod.ending_together():
        try:
            codec = vae.Autoencoder(*vae.load(file)) if file else PatchBasis.create()
            encoder = Encoder(codec, options.batch, file)
            for folder, output in jobs:
                done = encode(
                    folder,
                    output,
                    encoder,
                    dtype=options.dtype,
                    overwrite=options.overwrite,
                    share=share,
                    finish=options.finish,
                )
                if jax.process_index() == 0:
                    print(done, flush=True)
        except (ValueError, OSError) as error:
            sys.exit(f"encode: {error}")


def encode(
    folder: Path,
    output: Path,
    encoder: "Encoder",
    *,
    dtype: str = "float16",
    overwrite: bool = False,
    share: Share | None = None,
    finish: bool = False,
) -> str:
    """Writes the records of a prepared folder with moments of their latents into `output`.

    Where several processes are joined, all of them must call it, and each makes its share of the
    shards.

    Args:
      folder: what `prepare` wrote.
      output: new folder, or an earlier one; all processes see it.
      encoder: runs the autoencoder, which must be of the stride and channels of the folder's sizes.
      dtype: of the stored moments, a name in `serialization.DTYPES`.
      overwrite: replace an earlier result.
      share: only these of the shards, where other machines make the rest
        (see `data.prepared.shares`).
      finish: the shares have made all shards; write what belongs to them.

    Returns:
      A report of one line, and the next command.

    Raises:
      FileNotFoundError: `folder` is not prepared, or a process does not see `output`.
      FileExistsError: `output` holds another result, or an interrupted run of another request.
      ValueError: the codec does not fit the folder's sizes, or the folder holds latents already.
      FolderBusy: another command is at work in `output`.
    """
    source = ArrayRecordSource(folder)
    job = Encoding(source, _spec(source, encoder.codec), encoder, dtype)
    if share:
        if overwrite or jax.process_count() > 1:
            raise ValueError("--share is for single processes, and without --overwrite")
        tasks = _tasks(source)
        with shares.joining(output, _about(job), share, "unireason encode"):
            shards.build(output, tasks, job, share=share.shards, about="encoding")
        return f"share {share} of {len(tasks)} shards is made in {output}; in the end: --finish"
    with pod.holding(output, "unireason encode"):
        if finish:
            shares.check_finished(output, len(_tasks(source)))
        return _encode(folder, output, job, overwrite and not finish)


def _about(job: "Encoding") -> dict[str, Any]:
    """What the result depends on."""
    codec, manifest = job.encoder.codec, job.source.manifest
    made = {"codec": type(codec).__name__, "dtype": job.dtype, "probe": latents.probe(codec)}
    about = {"source": repr(job.source), "sizes": manifest["sizes"], "latents": made}
    return about | {key: manifest[key] for key in ("style", "system") if key in manifest}


def _tasks(source: ArrayRecordSource) -> list[tuple[range, int]]:
    """The records of every shard, one for each of the source."""
    ends = np.cumsum([0, *(shard["records"] for shard in source.manifest["shards"])]).tolist()
    return [(range(a, b), b - a) for a, b in itertools.pairwise(ends)]


def _encode(folder: Path, output: Path, job: "Encoding", overwrite: bool) -> str:
    about, encoder, dtype = _about(job), job.encoder, job.dtype
    if jax.process_index() == 0:
        shards.tidy(output)
    if not overwrite and shards.is_made(output, about):
        _keep_codec(encoder, output)
        return f"{output} holds these latents already"
    if jax.process_index() == 0:
        shards.begin(output, about, overwrite=overwrite)
        paths.copy_tree(folder / "tokenizer", output / "tokenizer")
        _keep_codec(encoder, output)
    pod.gather(f"begun {output}", None)
    if not shards.is_unfinished(output):
        raise FileNotFoundError(
            f"process {jax.process_index()} does not see {output}; give a folder that all hosts see"
        )
    tasks = _tasks(job.source)
    share = slice(jax.process_index(), None, jax.process_count())
    shards.build(output, tasks, job, share=share, about="encoding")
    pod.gather(f"encoded {output}", None, timeout=_PATIENCE)
    report = ""
    if jax.process_index() == 0:
        manifest = shards.finish(output, [rows for _, rows in tasks], about)
        report = (
            f"{manifest['records']} records with {dtype} latents in {len(manifest['shards'])} "
            f"shards of {output}, {manifest['bytes'] / 2**20:.1f} MiB"
        )
        if about["latents"]["codec"] == "Autoencoder":
            report += f"\n{next_command(job, output)}"
    return pod.gather(f"finished {output}", report)[0]


def next_command(job: "Encoding", output: Path) -> str:
    """What to do with the latents, by `own_data.py` in the form for pictures of their size."""
    size = max(drawing_assets.usual_size([job.source], job.spec) or (0,))
    form = next((form for form in FORMS if size <= form), FORMS[-1])
    beside = paths.of(job.encoder.file).parent if job.encoder.file else None
    checkpoint = beside if beside and (beside / "checkpoints").is_dir() else "CHECKPOINT"
    return (
        f"next: unireason train --config configs/own_data.py:{form} --workdir RUN "
        f"--config.data.source={output} --config.init_from={checkpoint}"
    )


def _keep_codec(encoder: "Encoder", output: Path) -> None:
    """Leaves the autoencoder beside its latents, so that a run on them can draw."""
    if encoder.file and jax.process_index() == 0:
        drawing_assets.keep_autoencoder(encoder.file, output)


def _spec(source: ArrayRecordSource, codec: LatentCodec) -> SampleSpec:
    """How the records of a prepared folder are measured and resized for a codec.

    Raises:
      ValueError: as `encode`.
    """
    if "latents" in source.manifest:
        raise ValueError(f"{source.folder} holds latents already; give the folder of its images")
    sizes = SIZES[source.manifest["sizes"]]
    made_for = sizes["codec"]
    if isinstance(codec, PatchBasis) and source.manifest["sizes"] != "world":
        raise ValueError(
            f"{source.folder} holds pictures for a released autoencoder: give --vae FILE, the "
            "ae.safetensors of the checkpoint that will be tuned"
        )
    if (made_for.stride, made_for.channels) != (codec.stride, codec.channels):
        raise ValueError(
            f"{source.folder} was measured for latents of {made_for.channels} channels at stride "
            f"{made_for.stride}, not {codec.channels} at {codec.stride}; give the right "
            "autoencoder, or prepare it with other --sizes"
        )
    return SampleSpec(load_tokenizer(source.folder / "tokenizer"), **sizes | {"codec": codec})


class Encoder:
    """A frozen autoencoder over all devices of this process.

    Attributes:
      file: of the autoencoder; empty for none.
      rows: images in a batch.
      sizes: (height, width) it has seen, each compiled once.
    """

    def __init__(self, codec: LatentCodec, batch: int = 1, file: str = ""):
        """Places the weights; `batch` images go to each device."""
        self.codec, self.file = codec, file
        self.sizes: set[tuple[int, int]] = set()
        self.rows = batch * jax.local_device_count()
        if isinstance(codec, vae.Autoencoder):
            mesh = Mesh(np.array(jax.local_devices()), ("images",))
            self._images = NamedSharding(mesh, PartitionSpec("images"))
            self._params = jax.device_put(codec.params, NamedSharding(mesh, PartitionSpec()))
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
    spec: SampleSpec
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
        return Kept(serialization.to_bytes(record), lengths(record, self.spec), counts)


class _Entry(NamedTuple):
    """A record, how many of its images need latents, and the moments found so far."""

    record: Record
    images: int
    moments: dict[int, np.ndarray]


def _request(options: flags.FlagValues) -> tuple[list[tuple[Path, Path]], str]:
    """The folders to encode with their outputs, and the file of the autoencoder ("": the world's).

    Raises:
      ValueError: flags are missing, or there is nothing to encode.
    """
    if not options.output or bool(options.input) == bool(options.config):
        raise ValueError(
            "say what to encode and where to write: --output DIR, and --input DIR or --config FILE"
        )
    output = paths.of(options.output)
    if options.input:
        return [(paths.of(options.input), output)], options.vae
    folders = corpus.folders(options.config)
    if not folders:
        raise ValueError("config.data.source is the world, which is encoded while it is trained on")
    jobs = [(path, output / name) for name, path in folders.items()]
    return jobs, options.vae or options.config.data.vae


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "config whose folders to encode", flag_values=own, sys_argv=list(argv)
    )
    flags.DEFINE_string("input", None, "folder that prepare wrote", flag_values=own)
    flags.DEFINE_string("output", None, "folder to write", flag_values=own)
    flags.DEFINE_string("vae", "", "official ae.safetensors [the world's]", flag_values=own)
    flags.DEFINE_enum(
        "dtype", "float16", sorted(serialization.DTYPES), "of the stored moments", flag_values=own
    )
    flags.DEFINE_integer("batch", 1, "images a device encodes at a time", 1, flag_values=own)
    flags.DEFINE_bool("overwrite", False, "replace an earlier result", flag_values=own)
    command_line.define_shares(own)
    return own


if __name__ == "__main__":
    main(sys.argv)
