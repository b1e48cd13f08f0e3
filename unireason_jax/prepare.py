"""Convert records once: published rows and image files -> ArrayRecord shards with a length index.

    unireason prepare --input train.jsonl --images images/ --output data/train
    unireason prepare --format bagel_t2i --input 'parquet/*.parquet' --workers 16 ...
    unireason prepare --format unireason --input refine.json --tokenizer checkpoints/bagel/tokenizer
    unireason prepare --format world --tasks t2i=2,refine_t2i=1 --size 1000 --output data/world
    unireason prepare --input train.jsonl --output data/train --show pack.png
    unireason prepare --input a.jsonl,b.jsonl --tokenizer_only --output data/words

Inputs are files, folders or patterns of JSON lines, JSON arrays, CSV, parquet and tar (WebDataset),
told by their content and read as a stream. Images are files of --images (or of each input's own
folder), bytes in the rows, or data URIs. The output folder holds

    records-00000.array_record ...   one record per entry, images inside, random access
    lengths.npy                      tokens by stream of every record, int32 [records, 3]
    manifest.json                    shards with sha256, counts, licences, token statistics
    quarantine.jsonl                 every record that cannot be used, with its reason
    tokenizer/                       the tokenizer the lengths were measured with

and is read by `data.sources.ArrayRecordSource`. Nothing is dropped silently. An interrupted run
goes on where it stopped when the same command is given again, and ends with the same bytes; so does
a run with another number of workers. Many machines make `--share i/n` each, and one command with
`--finish` ends it (see `data.prepared.shares`).
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import pickle
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from unireason_jax.data import rows
from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.data.files import KINDS, find_files, overlooked
from unireason_jax.data.files.streams import FileRecords, IndexedRecords, Reading, in_shards
from unireason_jax.data.image_sizes import SIZES, row_tokens
from unireason_jax.data.prepared import shards, shares
from unireason_jax.data.prepared.folder_report import account
from unireason_jax.data.prepared.record_conversion import Conversion
from unireason_jax.data.prepared.shares import Share
from unireason_jax.data.rows import Budgets
from unireason_jax.data.sources import ArrayRecordSource, WorldSource
from unireason_jax.data.templates import PLAIN, STYLES
from unireason_jax.data.templates.official import FORMATS
from unireason_jax.data.text import vocabulary
from unireason_jax.data.text.tokenizer import (
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    world_tokenizer,
)
from unireason_jax.pictures import packed_row
from unireason_jax.run import command_line
from unireason_jax.storage import atomic, lock, paths

TOKENIZER = "tokenizer"
_SHOWN_TOKENS, _SHOWN_FROM = 512, 256
_WORLD, _OWN = ("world", "plain", ""), ("bagel", "plain", "")
_RELEASED = {
    "world": _WORLD,
    "unireason": ("unireason", "unireason", "unireason"),
    "sharegpt_4o": ("unireason", "plain", "bagel"),
    "bagel_t2i": ("bagel", "plain", "bagel"),
    "bagel_edit": ("bagel", "plain", "bagel"),
    "bagel_vlm": ("bagel", "plain", "bagel"),
    "uni_edit": ("bagel", "plain", "uni_edit"),
    "uni_edit_vqa": ("bagel", "plain", "uni_edit"),
    "irg": ("irg", "plain", "irg"),
}
"""Sizes and style that a format is trained with, and its system; of all else they are `_OWN`: the
world's sizes are for its own pictures, of photographs they leave a mosaic."""


def main(argv: Sequence[str]) -> None:
    """Runs the command line `argv` (program name first); errors are one line and exit status 1."""
    options = _flags()
    try:
        if not command_line.parse(options, argv, __doc__):
            return
        if not options.output:
            raise ValueError("say where to write: --output DIR")
        records, sizes, about = _records(options)
        if options.tokenizer_only:
            base, folder = _given_tokenizer(options), paths.of(options.output)
            print(vocabulary.write(records, folder, base, overwrite=options.overwrite))
            return
        report = prepare(
            records,
            paths.of(options.output),
            sizes=sizes,
            tokenizer=_given_tokenizer(options),
            shard_records=options.shard_records,
            workers=options.workers,
            tokens=options.row_tokens,
            overwrite=options.overwrite,
            upright=options.upright,
            max_bad=options.max_bad,
            about=about,
            share=shares.parse(options.share),
            finish=options.finish,
        )
        print(report)
        if options.share:
            return
        print(vocabulary.of_folder(paths.of(options.output), options.max_unknown))
        if options.show:
            show(paths.of(options.output), paths.of(options.show), sizes=sizes)
            print(f"drew the first records into {options.show}")
        if sizes != "world":
            print(_next(options))
    except (flags.Error, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"prepare: {error}")


def prepare(
    records: FileRecords | IndexedRecords,
    output: Path,
    *,
    sizes: str,
    tokenizer: Tokenizer | None = None,
    shard_records: int = 1024,
    workers: int = 0,
    tokens: int = 0,
    overwrite: bool = False,
    upright: bool = False,
    max_bad: float = 1.0,
    about: Mapping[str, Any] | None = None,
    share: Share | None = None,
    finish: bool = False,
) -> str:
    """Writes `records` into the folder `output`, or goes on with what an interrupted run left.

    Args:
      records: where they come from.
      output: new folder, or an earlier one.
      sizes: name in SIZES, for the length index.
      tokenizer: for the length index; None trains a word vocabulary on all texts.
      shard_records: rows that make a shard.
      workers: processes; 0 works in this one.
      tokens: wished tokens of a packed row, for the advice in the report; 0 for the usual.
      overwrite: replace an earlier result.
      upright: turn photographs as their EXIF says (see `data.images`).
      max_bad: part of the records that may be in quarantine.
      about: further entries of the manifest: style and system, which a run on it records.
      share: only these of the shards, where other machines make the rest
        (see `data.prepared.shares`).
      finish: the shares have made all shards; write what belongs to them.

    Returns:
      A report of a few lines.

    Raises:
      FileExistsError: `output` holds prepared data, or an interrupted run of another request.
      ValueError: there are no rows, none is usable, or too few are; shards of shares are missing.
      RuntimeError: a worker process died.
      FolderBusy: another command is at work in `output`.
    """
    output = paths.of(output)
    tasks = list(tqdm(in_shards(records, shard_records), desc="counting rows", unit=" shards"))
    if not tasks:
        raise ValueError(f"{records.name} is empty; there is nothing to read")
    request = {
        "source": repr(records),
        "files": records.stamps(),
        "sizes": sizes,
        "shard_records": shard_records,
        "upright": upright,
        "tokenizer": tokenizer and hashlib.sha256(pickle.dumps(tokenizer)).hexdigest(),
    }
    job = functools.partial(Conversion, records, upright=upright)
    build = functools.partial(shards.build, output, tasks, workers=workers, about="preparing")
    if share:
        spec = SampleSpec(_needed(tokenizer, overwrite), **SIZES[sizes])
        with shares.joining(output, request, share, "unireason prepare"):
            build(job(spec), share=share.shards)
        return f"share {share} of {len(tasks)} shards is made in {output}; in the end: --finish"
    with lock.hold(output, "unireason prepare"):
        if finish:
            shares.check_finished(output, len(tasks))
        resumed = shards.begin(output, request, overwrite=overwrite and not finish)
        tokenizer = _tokenizer(output / TOKENIZER, tokenizer, tasks, records, keep=resumed)
        build(job(SampleSpec(tokenizer, **SIZES[sizes])))
        made = {"source": repr(records), "sizes": sizes, **(about or {})}
        manifest = shards.finish(output, [rows for _, rows in tasks], made, max_bad=max_bad)
        return account(output, manifest, tokens or row_tokens(sizes))


def _needed(tokenizer: Tokenizer | None, overwrite: bool) -> Tokenizer:
    """The tokenizer of a share. Raises ValueError where the flags do not suit shares."""
    if tokenizer is None:
        raise ValueError(
            "--share needs --tokenizer, the same for all (--tokenizer_only makes one of all inputs)"
        )
    if overwrite:
        raise ValueError("--share does not go with --overwrite; remove the folder first")
    return tokenizer


def show(folder: Path, picture: Path, *, sizes: str) -> None:
    """Draws the first records of every template of a prepared folder as one packed row.

    Args:
      folder: with a manifest.
      picture: file to write.
      sizes: name in SIZES.
    """
    source, seen = ArrayRecordSource(folder), Counter()
    spec = SampleSpec(load_tokenizer(folder / TOKENIZER), **SIZES[sizes])
    turns = []  # one record of every template before a second of any
    for index in range(min(len(source), _SHOWN_FROM)):
        template = source[index].source
        turns.append((seen[template], index))
        seen[template] += 1
    order = [index for _, index in sorted(turns)]
    ends = np.cumsum(source.lengths()[order].sum(1))
    count = max(1, int(np.searchsorted(ends, _SHOWN_TOKENS, side="right")))
    sequences = [tokenize(source[i], spec, np.random.default_rng(i)) for i in order[:count]]
    budgets = Budgets(*np.sum([s.lengths for s in sequences], 0).tolist())
    row = rows.assemble(sequences, budgets, spec.patch_sizes)
    title = f"the first records of {folder.name}"
    with atomic.replacing(picture) as part:
        packed_row.draw_row(row, spec.tokenizer, title=title).save(part)


def _tokenizer(folder: Path, given: Tokenizer | None, tasks, records, *, keep: bool) -> Tokenizer:
    """The tokenizer of the output folder: the one given, an earlier one, or one trained now."""
    if keep and given is None:  # one that was trained is a single file, so it is whole
        with contextlib.suppress(FileNotFoundError):
            return load_tokenizer(folder)
    made = given or _trained(vocabulary.texts(records, tasks))
    if not keep:
        paths.remove_tree(folder)
    made.save(folder)
    return made


def _trained(texts: Iterator[str]) -> Tokenizer:
    """A word vocabulary of the texts; the world's where there are none, which says why later."""
    first = next(texts, None)
    if first is None:
        return world_tokenizer()
    return SentencePieceTokenizer.train(itertools.chain([first], texts))


def _given_tokenizer(options) -> Tokenizer | None:
    """The tokenizer that was asked for, or the world's for its records."""
    if options.tokenizer:
        return load_tokenizer(paths.of(options.tokenizer))
    return world_tokenizer() if options.format == "world" else None


def _next(options) -> str:
    """What to do with the folder; a vocabulary of its own fits no released checkpoint."""
    own = "" if options.tokenizer else "; --tokenizer CHECKPOINT/tokenizer, to tune a checkpoint"
    vocabulary = f"(a vocabulary was made of these words{own})\n" if own else ""
    folder, autoencoder = options.output.rstrip("/"), "CHECKPOINT/ae.safetensors"
    if options.tokenizer:
        beside = paths.of(options.tokenizer).parent / "ae.safetensors"
        autoencoder = beside if beside.exists() else autoencoder
    return (
        f"{vocabulary}next: unireason encode --input {folder} --output {folder}_latents "
        f"--vae {autoencoder}"
    )


def _records(options) -> tuple[FileRecords | IndexedRecords, str, dict[str, str]]:
    """The records, the name of their sizes, and their style and system."""
    sizes, style, system = _RELEASED.get(options.format, _OWN)
    if options.format == "world":
        weights = {}
        for part in options.tasks:
            task, _, weight = part.partition("=")
            try:
                weights[task] = float(weight or 1)
            except ValueError:
                raise ValueError(f"--tasks {part!r} is not NAME=WEIGHT") from None
        style = options.style or style
        world = WorldSource(options.seed, options.size, weights, style=STYLES[style])
        return IndexedRecords(world), options.sizes or sizes, _about(style, system)
    if not options.input:
        raise ValueError(f"say what to read: --input FILE (read are {KINDS})")
    folder = paths.of(options.images) if options.images else None
    if folder and not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; check --images")
    reading = Reading(options.format, PLAIN, options.licence, options.allow_outside)
    found = FileRecords(tuple(find_files(options.input)), reading, folder, options.visits)
    for line in overlooked(options.input, found.paths):
        print(line)
    if options.format == "auto" and (form := found.recognised()):
        sizes, style, system = _RELEASED.get(form, _OWN)
        print(f"the first rows are of the format '{form}'")
    sizes, style = options.sizes or sizes, options.style or style
    print(f"sizes of '{sizes}', templates in the style '{style}' (--sizes and --style change them)")
    reading = dataclasses.replace(reading, style=STYLES[style])
    return dataclasses.replace(found, reading=reading), sizes, _about(style, system)


def _about(style: str, system: str) -> dict[str, str]:
    """What the manifest says of style and system, for the runs on it."""
    return {"style": style, "system": "process" if style == "process" else system}


def _flags() -> flags.FlagValues:
    own = flags.FlagValues()

    formats = [*FORMATS, "world"]
    flags.DEFINE_enum("format", "auto", formats, "format of the rows", flag_values=own)
    flags.DEFINE_list("input", [], "files, folders or patterns", flag_values=own)
    flags.DEFINE_string(
        "images", None, "folder of relative image paths [each input's own]", flag_values=own
    )
    flags.DEFINE_bool(
        "allow_outside", False, "read images that are not in the image folder", flag_values=own
    )
    flags.DEFINE_bool(
        "upright",
        False,
        "turn photographs as their EXIF says [as the released models were trained: not]",
        flag_values=own,
    )
    flags.DEFINE_string("licence", "", "licence of rows that name none", flag_values=own)
    flags.DEFINE_integer(
        "visits", 1, "records drawn from each BAGEL caption or edit row", 1, flag_values=own
    )
    flags.DEFINE_string("output", None, "folder to write", flag_values=own)
    flags.DEFINE_string(
        "show", None, "draw the first records as a packed row into this PNG", flag_values=own
    )
    flags.DEFINE_string(
        "tokenizer", None, "tokenizer folder [a word vocabulary is trained]", flag_values=own
    )
    flags.DEFINE_bool(
        "tokenizer_only",
        False,
        "only write a vocabulary of all inputs (and of --tokenizer) into --output",
        flag_values=own,
    )
    flags.DEFINE_float(
        "max_unknown",
        vocabulary.LIMIT,
        "part of the tokens that may be words which the vocabulary does not know",
        0.0,
        1.0,
        flag_values=own,
    )
    flags.DEFINE_enum(
        "sizes",
        None,
        sorted(SIZES),
        "image sizes [those that the format is trained at; BAGEL's for examples]",
        flag_values=own,
    )
    flags.DEFINE_integer(
        "row_tokens", 0, "tokens of a row to advise budgets for [usual]", 0, flag_values=own
    )
    flags.DEFINE_enum(
        "style",
        None,
        sorted(STYLES),
        "style of the templates [with UniReason's system prompts for its format, else plain]",
        flag_values=own,
    )
    flags.DEFINE_list("tasks", ["t2i"], "world tasks as NAME=WEIGHT,...", flag_values=own)
    flags.DEFINE_integer("size", 1000, "world records", 1, flag_values=own)
    flags.DEFINE_integer("seed", 0, "world seed", 0, flag_values=own)
    flags.DEFINE_integer("shard_records", 1024, "rows that make a shard", 1, flag_values=own)
    flags.DEFINE_integer("workers", 0, "processes [0: this one]", 0, flag_values=own)
    flags.DEFINE_float(
        "max_bad", 1.0, "part of the records that may be in quarantine", 0, 1, flag_values=own
    )
    flags.DEFINE_bool("overwrite", False, "replace an earlier result", flag_values=own)
    command_line.define_shares(own)
    return own


if __name__ == "__main__":
    main(sys.argv)
