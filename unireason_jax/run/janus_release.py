"""Released Janus-Pro checkpoints as workdirs, and workdirs as releases.

What a release holds beside the network, the VQ tokenizer and tensors that nobody reads, goes
through unchanged in a file of its own, so that a release comes back bit for bit.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.janus.pictures import FILE as PROCESSOR
from unireason_jax.data.janus.pictures import Square
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.models import functional, huggingface
from unireason_jax.models.archive import DTYPES, read_json, type_name, write_archive
from unireason_jax.models.janus import names, release, release_config
from unireason_jax.models.janus.config import JanusConfig, VQConfig
from unireason_jax.models.official_names import layout
from unireason_jax.run import configuration, first_checkpoint
from unireason_jax.run.janus_codec import FILE as CODES
from unireason_jax.run.run import TOKENIZER
from unireason_jax.storage import atomic

CONFIG, KEPT = "config.json", "release.json"
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    PROCESSOR,
    "processor_config.json",
)


def read(source: Path, workdir: Path, *, dtype: str | None, shard_bytes: int) -> list[str]:
    """Turns a released folder into a workdir.

    Args:
      source: the folder with the weights, config.json, and the files of tokenizer and processor
        (there, or in a folder `tokenizer`).
      workdir: where to; must not hold a checkpoint yet.
      dtype: element type of the network's weights; None keeps that of the files.
      shard_bytes: size of a weight file.

    Returns:
      What was done, one line each.

    Raises:
      FileNotFoundError, ValueError: a file is missing or does not fit; nothing has been written.
    """
    config, sizes = release_config.read_config(source)
    archive = release.open_weights(source)
    release.check(archive, config, sizes)
    words = source / TOKENIZER if (source / TOKENIZER).is_dir() else source
    _check_files(words, config)
    directory = first_checkpoint.new(workdir)
    parts = release.Parts(archive)
    files, known = first_checkpoint.write_weights(directory, config, parts, dtype, shard_bytes)
    lines = [f"{functional.count(functional.abstract(config)):,} parameters", *files]
    carried = {n: (archive.shape(n), archive.dtype(n)) for n in archive if release.outside(n)}
    write_codes(workdir, sizes, carried, lambda name: [archive.read(name)])
    configuration.save(workdir, configuration.of_model(config, "janus_pro_1b"))
    atomic.write_bytes(workdir / KEPT, (source / CONFIG).read_bytes())
    copied = first_checkpoint.copy(words, workdir / TOKENIZER, FILES)
    first_checkpoint.finish(directory, known)
    return [*lines, CODES, *(f"{TOKENIZER}/{name}" for name in copied)]


def _check_files(folder: Path, config: JanusConfig) -> None:
    """Raises ValueError or FileNotFoundError unless tokenizer and processor fit the network."""
    size = JanusTokenizer.load(folder).vocab_size
    if size > config.llm.vocab:
        raise ValueError(
            f"{folder}: the tokenizer has {size} ids, but the embedding table "
            f"{config.llm.vocab} rows."
        )
    pixels, wanted = Square.load(folder).size, config.vit.side * config.vit.patch
    if pixels != wanted:
        raise ValueError(
            f"{folder / PROCESSOR}: field 'image_size' is {pixels}, but the tower reads {wanted}."
        )
    file = folder / "processor_config.json"
    tokens = read_json(file).get("num_image_tokens") if file.exists() else None
    if tokens not in (None, config.vit.side**2):
        raise ValueError(
            f"{file}: field 'num_image_tokens' is {tokens}, but the tower gives "
            f"{config.vit.side**2}."
        )


def write_codes(
    workdir: Path, sizes: VQConfig, tensors: dict[str, tuple[tuple[int, ...], str]], produce: Any
) -> None:
    """Writes the VQ tokenizer's file of a workdir: official tensors, and its sizes.

    Args:
      workdir: where to.
      sizes: of the tokenizer.
      tensors: shape and type by official name; unused ones of the release may be among them.
      produce: name -> the contents, as pieces.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    stem, metadata = CODES.removesuffix(".safetensors"), {"vq": json.dumps(vars(sizes))}
    write_archive(workdir, stem, tensors, produce, shard_bytes=1 << 62, metadata=metadata)


def write(
    workdir: Path, target: Path, config: JanusConfig, leaf: huggingface.Read, **options: Any
) -> list[str]:
    """Writes a run's weights in the released layout, so that the official code loads them.

    Args:
      workdir: a training run or a converted folder.
      target: where to; made if missing.
      config: the sizes.
      leaf: (path, layer) -> that leaf, or that layer of a stacked one.
      **options: `dtype` of the weights, and `shard_bytes`.

    Returns:
      Names of the files written.
    """
    archive, sizes = release.open_codes(workdir / CODES)
    kind = type_name(options["dtype"])
    shapes, table = release.official_shapes(config, sizes), layout(config)
    where = {
        name: (path, tensor, i if tensor.stacked else None)
        for path, tensor in table.items()
        for i, name in enumerate(tensor.names)
    }

    @functools.lru_cache(maxsize=3)
    def every_layer(path: str) -> list[np.ndarray]:
        return [leaf(path, i) for i in range(len(table[path].names))]

    def part(name: str) -> np.ndarray:
        path, tensor, layer = where[name]
        fused = "#" in name  # three leaves in turn: held, or a run's would be read for each layer
        return tensor.official(every_layer(path)[layer] if fused else leaf(path, layer))

    def produce(name: str) -> Iterator[np.ndarray]:
        if release.outside(name):
            given = name in archive
            value = archive.read(name) if given else np.zeros(shapes[name], np.float32)
            yield value.astype(DTYPES[kind], copy=False)
        elif name in where:
            yield release.joined(config, name, [part(name)]).astype(DTYPES[kind], copy=False)
        else:
            for i in range(3):
                yield part(f"{name}#{i}").astype(DTYPES[kind], copy=False)

    target.mkdir(parents=True, exist_ok=True)
    first = [names.whole(name) for name in where]  # a leaf's layers in a row, read once
    order = [*dict.fromkeys(first), *(name for name in shapes if release.outside(name))]
    announced = {name: (shapes[name], kind) for name in order}
    bytes_of_file = options["shard_bytes"]
    files = write_archive(target, "model", announced, produce, shard_bytes=bytes_of_file)
    values = _config(workdir, config, sizes) | {"torch_dtype": options["dtype"]}
    atomic.write_text(target / CONFIG, json.dumps(values, indent=1) + "\n")
    return [*files, CONFIG, *first_checkpoint.copy(workdir / TOKENIZER, target, FILES)]


def _config(workdir: Path, config: JanusConfig, sizes: VQConfig) -> dict[str, Any]:
    """The release's own config.json where there was one, else one of these sizes."""
    if (workdir / KEPT).exists():
        return read_json(workdir / KEPT)
    return release_config.json_config(config, sizes)
