"""Convert records once: JSON rows and image files -> ArrayRecord shards with a length index.

    unireason prepare --input train.jsonl --images images/ --output data/train
    unireason prepare --format world --tasks t2i=2,refine_t2i=1 --size 1000 --output data/world
    unireason prepare --input train.jsonl --output data/train --show pack.png

The output folder holds

    records-00000.array_record ...   one record per entry, images inside, random access
    lengths.npy                      tokens by stream of every record, int32 [records, 3]
    manifest.json                    shards, counts, settings, and a key of the contents
    quarantine.jsonl                 every record that cannot be used, with its reason
    tokenizer/                       the tokenizer the lengths were measured with

and is read by `data.sources.ArrayRecordSource`. Nothing is dropped silently, and a folder without a
manifest is an interrupted run.
"""

import collections
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from unireason_jax.data import assemble, draw, images, storage
from unireason_jax.data.packing import Budgets
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.sequence import SequenceSpec, lengths, render
from unireason_jax.data.sources import (
    LENGTHS,
    MANIFEST,
    ArrayRecordSource,
    JsonSource,
    WorldSource,
)
from unireason_jax.data.templates import Style, prompts
from unireason_jax.data.tokenizer import SentencePieceTokenizer, Tokenizer, load_tokenizer

QUARANTINE = "quarantine.jsonl"
SYSTEMS = {"none": None, "unireason": prompts.UNIREASON}
_SHOWN_TOKENS = 512


class SizeCodec:
    """Stands in for an autoencoder where only sizes and colours matter (index and pictures).

    Its latents hold the mean colour of their pixels in the first three channels, in [-1, 1].
    """

    def __init__(self, stride: int, channels: int):
        self.stride, self.channels = stride, channels

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and log variance (of a certain value), float32 [H / stride, W / stride, C]."""
        rows, columns = (edge // self.stride for edge in image.shape[:2])
        pixels = images.PIXEL_VALUES[image].reshape(rows, self.stride, columns, self.stride, 3)
        mean = np.zeros((rows, columns, self.channels), np.float32)
        mean[..., :3] = pixels.mean((1, 3))
        return mean, np.full_like(mean, -np.inf)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """The mean colours as uint8 [h * stride, w * stride, 3]."""
        colors = np.clip((latents[..., :3] + 1) * 127.5, 0, 255).astype(np.uint8)
        return colors.repeat(self.stride, 0).repeat(self.stride, 1)


_LARGE = {
    "codec": SizeCodec(8, 16),
    "latent_patch": 2,
    "latent_side": 64,
    "vit_patch": 14,
    "vit_side": 70,
    "latent_resize": images.Resize(1024, 512, 16),
}
SIZES = {
    "world": {"codec": SizeCodec(8, 24), "latent_patch": 1, "vit_patch": 8},
    "bagel": _LARGE | {"vit_resize": images.Resize(518, 224, 14)},
    "unireason": _LARGE | {"vit_resize": images.Resize(532, 224, 14)},
}
"""Image sizes and patches by name: the embedded world, BAGEL's and UniReason's training."""


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv` (program name first); errors are one line and exit status 1."""
    options = _flags()
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        print(f"{__doc__}\n{options.get_help()}")
        return
    try:
        rest = options(list(argv))
        if len(rest) > 1:
            raise ValueError(f"unknown argument {rest[1]!r}; flags start with --")
        if not options.output:
            raise ValueError("say where to write: --output DIR")
        source = _source(options)
        report = prepare(
            source,
            Path(options.output),
            sizes=options.sizes,
            tokenizer=load_tokenizer(Path(options.tokenizer)) if options.tokenizer else None,
            shard_bytes=options.shard_megabytes << 20,
            overwrite=options.overwrite,
        )
        print(report)
        if options.show:
            show(Path(options.output), Path(options.show), sizes=options.sizes)
            print(f"drew the first records into {options.show}")
    except (flags.Error, ValueError, OSError) as error:
        sys.exit(f"prepare: {error}")


def prepare(
    source: JsonSource | WorldSource,
    output: Path,
    *,
    sizes: str,
    tokenizer: Tokenizer | None = None,
    shard_bytes: int = 256 << 20,
    overwrite: bool = False,
) -> str:
    """Writes the records of `source` into the folder `output`.

    Args:
      source: random-access records.
      output: new folder, or an earlier one with `overwrite`.
      sizes: name in SIZES, for the length index.
      tokenizer: for the length index; None trains a word vocabulary on all texts.
      shard_bytes: a shard is closed when it is larger.
      overwrite: replace an earlier result.

    Returns:
      A report of a few lines.

    Raises:
      FileExistsError: `output` holds prepared data and `overwrite` is False.
      ValueError: no record is usable.
    """
    output = Path(output)
    if (output / MANIFEST).exists() and not overwrite:
        raise FileExistsError(
            f"{output} already holds prepared data; give --overwrite to replace it"
        )
    _clear(output)
    tokenizer = tokenizer or SentencePieceTokenizer.train(_texts(source))
    tokenizer.save(output / "tokenizer")
    spec = SequenceSpec(tokenizer, **SIZES[sizes])
    quarantine = Quarantine(output / QUARANTINE)
    writer = _ShardWriter(output, shard_bytes)
    found, counts = [], collections.Counter()
    for record in _usable(source, spec, quarantine):
        found.append(lengths(record, spec))
        writer.write(storage.to_bytes(record))
        counts[f"template {record.source}"] += 1
        counts[f"licence {record.licence or 'unknown'}"] += 1
    shards = writer.close()
    if not found:
        first = next(iter(quarantine.reasons.values()), "the source is empty")
        raise ValueError(f"no record of {source!r} can be used; the first: {first}")
    np.save(output / LENGTHS, np.array(found, np.int32))
    manifest = {
        "version": 1,
        "records": len(found),
        "shards": shards,
        "key": writer.key(),
        "source": repr(source),
        "sizes": sizes,
        "tokens": dict(zip(("text", "vit", "latent"), np.sum(found, 0).tolist())),
        "quarantined": len(quarantine),
        "counts": dict(sorted(counts.items())),
    }
    part = output / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1))
    part.replace(output / MANIFEST)
    tokens = ", ".join(f"{count:,} {name}" for name, count in manifest["tokens"].items())
    kinds = ", ".join(f"{n} {name.split()[1]}" for name, n in counts.items() if "template" in name)
    return (
        f"{len(found)} records ({kinds}) in {len(shards)} shards of {output}\n"
        f"{tokens} tokens at the sizes of '{sizes}'\n{quarantine.summary()}"
    )


def show(folder: Path, picture: Path, *, sizes: str) -> None:
    """Draws the first records of a prepared folder as one packed row into the file `picture`."""
    source = ArrayRecordSource(folder)
    spec = SequenceSpec(load_tokenizer(folder / "tokenizer"), **SIZES[sizes])
    ends = np.cumsum(source.lengths().sum(1))
    count = max(1, int(np.searchsorted(ends, _SHOWN_TOKENS, side="right")))
    sequences = [render(source[i], spec, np.random.default_rng(i)) for i in range(count)]
    budgets = Budgets(*np.sum([s.lengths for s in sequences], 0).tolist())
    row = assemble.assemble(sequences, budgets, spec.patch_sizes)
    picture.parent.mkdir(parents=True, exist_ok=True)
    title = f"the first records of {folder.name}"
    draw.draw_row(row, spec.tokenizer, title=title).save(picture)


class _ShardWriter:
    """ArrayRecord shards of about the same size, and a hash of all that went into them."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.shards: list[dict] = []
        self._digest = hashlib.sha256()
        self._writer = None

    def write(self, data: bytes) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        if self._writer is None:
            name = f"records-{len(self.shards):05}.array_record"
            self._writer = ArrayRecordWriter(str(self.folder / name), "group_size:1")
            self.shards.append({"file": name, "records": 0, "bytes": 0})
        self._writer.write(data)
        self._digest.update(data)
        self.shards[-1]["records"] += 1
        self.shards[-1]["bytes"] += len(data)
        if self.shards[-1]["bytes"] >= self.limit:
            self.close()

    def close(self) -> list[dict]:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return self.shards

    def key(self) -> str:
        return self._digest.hexdigest()[:16]


def _usable(source, spec: SequenceSpec, quarantine: Quarantine) -> Iterator[Record]:
    """Records with their images inside that can be measured; the others go to quarantine."""
    name = source.path.name if isinstance(source, JsonSource) else "world"
    for index in range(len(source)):
        try:
            record = _with_images(source[index])
            if not any(s.loss != "none" or s.next != "none" for s in record.segments):
                raise RecordError(record.id, None, "nothing in it is learned; set a loss")
            lengths(record, spec)
        except RecordError as error:
            quarantine.add(name, f"{index}: {error.record_id}", error.reason)
            continue
        yield record


def _with_images(record: Record) -> Record:
    """The record with file contents instead of paths, every image decoded once as a check."""
    segments = list(record.segments)
    for number, segment in enumerate(segments):
        image = segment.image
        if image is None:
            continue
        try:
            if isinstance(image, str | os.PathLike):
                images.size(image)
                image = Path(image).read_bytes()
            images.load(image)
        except (ValueError, OSError) as error:
            raise RecordError(record.id, number, str(error)) from error
        segments[number] = dataclasses.replace(segment, image=image)
    return dataclasses.replace(record, segments=tuple(segments))


def _texts(source) -> Iterator[str]:
    for index in range(len(source)):
        try:
            record = source[index]
        except RecordError:
            continue  # quarantined with its reason when the records are written
        yield from (s.content for s in record.segments if s.kind == "text" and not s.is_hole)


def _clear(output: Path) -> None:
    """Removes what an earlier or interrupted run left; other files of the folder stay."""
    output.mkdir(parents=True, exist_ok=True)
    for path in [*output.glob("records-*.array_record"), *output.glob(f"{MANIFEST}*")]:
        path.unlink()
    for name in (LENGTHS, QUARANTINE):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / "tokenizer", ignore_errors=True)


def _source(options) -> JsonSource | WorldSource:
    style = Style(
        system=SYSTEMS[options.system],
        reference=options.reference,
        image_first=options.image_first,
    )
    if options.format == "world":
        weights = {}
        for part in options.tasks:
            task, _, weight = part.partition("=")
            try:
                weights[task] = float(weight or 1)
            except ValueError:
                raise ValueError(f"--tasks {part!r} is not NAME=WEIGHT") from None
        return WorldSource(options.seed, options.size, weights, style=style)
    if not options.input:
        raise ValueError("say what to read: --input FILE (JSON lines or a JSON array)")
    return JsonSource(options.input, options.images, style)


def _flags() -> flags.FlagValues:
    """The command line; not in absl's global flags, so that entry points can share a process."""
    own = flags.FlagValues()
    flags.DEFINE_enum("format", "jsonl", ["jsonl", "world"], "what to read", flag_values=own)
    flags.DEFINE_string("input", None, "JSON lines, or a JSON array", flag_values=own)
    flags.DEFINE_string(
        "images", None, "folder of relative image paths [the input's]", flag_values=own
    )
    flags.DEFINE_string("output", None, "folder to write", flag_values=own)
    flags.DEFINE_string(
        "show", None, "draw the first records as a packed row into this PNG", flag_values=own
    )
    flags.DEFINE_string(
        "tokenizer", None, "tokenizer folder [a word vocabulary is trained]", flag_values=own
    )
    flags.DEFINE_enum(
        "sizes", "world", sorted(SIZES), "image sizes of the length index", flag_values=own
    )
    flags.DEFINE_enum("system", "none", sorted(SYSTEMS), "system prompts", flag_values=own)
    flags.DEFINE_bool(
        "reference", False, "the released loaders' supervision, not ours", flag_values=own
    )
    flags.DEFINE_bool(
        "image_first", False, "edits show the image before the instruction", flag_values=own
    )
    flags.DEFINE_list("tasks", ["t2i"], "world tasks as NAME=WEIGHT,...", flag_values=own)
    flags.DEFINE_integer("size", 1000, "world records", 1, flag_values=own)
    flags.DEFINE_integer("seed", 0, "world seed", 0, flag_values=own)
    flags.DEFINE_integer("shard_megabytes", 256, "size of a shard", 1, flag_values=own)
    flags.DEFINE_bool("overwrite", False, "replace an earlier result", flag_values=own)
    return own


if __name__ == "__main__":
    main(sys.argv)
