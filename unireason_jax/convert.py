"""`unireason convert`: released BAGEL, UniReason or Janus checkpoints in, and out again.

    unireason convert --from bagel --input BAGEL-7B-MoT --output runs/bagel
    unireason convert --to bagel --input runs/stage2 --output release --which ema
    unireason convert --to bagel --input runs/bagel --output again --dtype float32
    unireason convert --from janus --input Janus-Pro-1B --output runs/janus
    unireason convert --to janus --input runs/janus --output again
    unireason convert --from qwen2 --input Qwen2.5-7B-Instruct --vit siglip --ae ae.safetensors \\
        --output runs/fresh
    unireason convert --from siglip --input siglip --variant small --output runs/fresh
    unireason convert --to weights --input runs/quickstart --output demo
    unireason convert --to peft --input runs/lora --output adapter
    unireason convert --from peft --input adapter --base runs/bagel --output runs/lora

Reading writes a workdir: what `train --config.init_from`, `generate` and `evaluate` take, with the
weights as checkpoint 0, the configs, the tokenizer and the autoencoder. Tensors are streamed one
at a time in both directions, and everything is checked before the first byte is written. The
workdir's weights keep the element type of the files unless --dtype says otherwise. `--to weights`
leaves of any run what sampling needs, to be shipped: its averaged weights in bfloat16. Of a run of
adapters, all but `--to peft` write the weights that these were merged into.
"""

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unireason_jax.data.templates import STYLE_OF
from unireason_jax.data.text.tokenizer import Qwen2Tokenizer
from unireason_jax.models import functional, huggingface, released, vae
from unireason_jax.models.archive import DTYPES, Archive, read_json, type_name
from unireason_jax.models.config import BAGEL_VARIANTS, BagelConfig, LatentConfig, LLMConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.models.pretrained import FreshStart
from unireason_jax.run import (
    adapter_exchange,
    command_line,
    configuration,
    detected_system,
    first_checkpoint,
    janus_release,
)
from unireason_jax.run.carry_over import carry
from unireason_jax.run.drawing_assets import AUTOENCODER
from unireason_jax.run.run import TOKENIZER
from unireason_jax.storage import atomic, lock, paths
from unireason_jax.training import checkpoint
from unireason_jax.training.optim import flatten

TOKENIZER_FILES = Qwen2Tokenizer.RELEASED
SOURCES = ("bagel", "janus", "qwen2", "siglip", "peft")


def from_bagel(
    source: Path,
    workdir: Path,
    *,
    system: str | None,
    dtype: str | None,
    shard_bytes: int,
    weights: str | None = None,
) -> list[str]:
    """Turns a released folder into a workdir.

    Args:
      source: the folder with ema.safetensors and its configs.
      workdir: where to; must not hold a checkpoint yet.
      system: whose release it is, which decides how it samples; None goes by the folder's name.
      dtype: element type of the weights; None keeps that of the files.
      shard_bytes: size of a weight file.
      weights: "ema" or "model", of which file; None for the first that is there.

    Returns:
      What was done, one line each.

    Raises:
      FileNotFoundError, ValueError: a file is missing or does not fit; nothing has been written.
    """
    config = huggingface.read_config(source, weights)
    file = source / "config.json"
    released.expect(read_json(file), file, interpolate_pos=False)
    archive = Archive(huggingface.find_weights(source, weights))
    system = system or detected_system.system_of(source)
    lines = write_workdir(
        workdir,
        config,
        archive,
        tokenizer=source,
        autoencoder=source / AUTOENCODER,
        dtype=dtype,
        shard_bytes=shard_bytes,
        system=system,
    )
    told = f"samples as {system}; another: --system NAME"
    then = f"next: unireason generate --checkpoint {workdir} --prompt TEXT --out DIR; to tune it, "
    then += f"unireason prepare --input PICTURES --output DIR --tokenizer {workdir / TOKENIZER}"
    if not (workdir / TOKENIZER).exists():
        names = "vocab.json, merges.txt, tokenizer_config.json"
        then = f"next: copy the release's tokenizer ({names}) into {workdir / TOKENIZER}"
    return [f"weights of {archive.path}", *lines, told, then]


def from_parts(
    llm: Path | LLMConfig,
    vit: Path | None,
    workdir: Path,
    *,
    autoencoder: Path | None,
    latent_side: int,
    seed: int,
    dtype: str | None,
    shard_bytes: int,
) -> list[str]:
    """Makes a workdir of a new model from Qwen2.5, SigLIP or both (see `models.pretrained`).

    Args:
      llm: folder of the language model, with its tokenizer; or the sizes of one that is drawn.
      vit: folder of the vision tower, or None.
      workdir: where to.
      autoencoder: an ae.safetensors, or None for FLUX's 16 channels to be added later.
      latent_side: tokens per side of the latent table (BAGEL: 64).
      seed: of what no release gives.
      dtype: element type of the weights; None keeps that of the files.
      shard_bytes: size of a weight file.

    Returns, Raises: as `from_bagel`.
    """
    channels = vae.read_config(Archive(autoencoder)).latents if autoencoder else 16
    latent = LatentConfig(channels=channels, patch=2, side=latent_side)
    start = FreshStart(llm, vit, latent=latent, seed=seed)
    return write_workdir(
        workdir,
        start.config,
        start,
        tokenizer=None if isinstance(llm, LLMConfig) else llm,
        autoencoder=autoencoder,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


def write_workdir(
    workdir: Path,
    config: BagelConfig,
    archive: Archive | FreshStart,
    *,
    tokenizer: Path | None,
    autoencoder: Path | None,
    dtype: str | None,
    shard_bytes: int,
    system: str = "",
) -> list[str]:
    """Checks everything, then writes checkpoint 0, configs, tokenizer and autoencoder.

    The checkpoint's manifest comes last: a workdir that has it is whole.
    """
    huggingface.check(archive, config)
    for source in archive.sources if isinstance(archive, FreshStart) else [archive]:
        huggingface.check_values(source)
    if autoencoder is not None and autoencoder.exists():
        found = vae.read_config(Archive(autoencoder))
        huggingface.check_values(Archive(autoencoder))
        if found.latents != config.latent.channels:
            raise ValueError(
                f"{autoencoder}: {found.latents} latent channels, but the model has "
                f"{config.latent.channels}."
            )
    if tokenizer and any((tokenizer / name).exists() for name in TOKENIZER_FILES):
        size = Qwen2Tokenizer.load(tokenizer).vocab_size
        if size > config.llm.vocab:
            raise ValueError(
                f"{tokenizer}: the tokenizer has {size} ids, but the embedding table "
                f"{config.llm.vocab} rows."
            )
    directory = first_checkpoint.new(workdir)
    files, known = first_checkpoint.write_weights(directory, config, archive, dtype, shard_bytes)
    made = configuration.of_model(config, "bagel_7b_mot")
    made.system, made.data.style = system, STYLE_OF.get(system, made.data.style)
    configuration.save(workdir, made)
    lines = [f"{functional.count(functional.abstract(config)):,} parameters", *files]
    if autoencoder is not None and autoencoder.exists():
        with atomic.replacing(workdir / AUTOENCODER) as part:
            paths.copy(autoencoder, part)
        lines += [AUTOENCODER, *first_checkpoint.copy(autoencoder.parent, workdir, (vae.CONFIG,))]
    words = (
        first_checkpoint.copy(tokenizer, workdir / TOKENIZER, TOKENIZER_FILES) if tokenizer else []
    )
    lines += [f"{TOKENIZER}/{name}" for name in words]
    if not words:
        lines.append("no tokenizer files found: this workdir can start a training, but not write")
    first_checkpoint.finish(directory, known)
    return lines


def to_bagel(
    workdir: Path, target: Path, *, which: str, step: int | None, dtype: str, shard_bytes: int
) -> list[str]:
    """Writes a run's weights, configs, tokenizer and autoencoder in the released format.

    Args:
      workdir: a training run or a converted folder.
      target: where to.
      which: "ema" or "params".
      step: a certain checkpoint; by default the newest sound one.
      dtype: element type of the weights.
      shard_bytes: size of a weight file; a model that fits gets a single one.

    Returns:
      What was done, one line each.

    Raises:
      FileNotFoundError, ValueError: no such run or checkpoint, or it does not fit its config.
    """
    config = _model_of(workdir, BagelConfig)
    read = leaf_source(workdir, config, which=which, step=step)
    files = huggingface.save(target, config, read, dtype=dtype, shard_bytes=shard_bytes)
    files += first_checkpoint.copy(workdir, target, (AUTOENCODER, vae.CONFIG))
    return files + first_checkpoint.copy(workdir / TOKENIZER, target, TOKENIZER_FILES)


def to_weights(
    workdir: Path, target: Path, *, which: str, step: int | None, dtype: str, shard_bytes: int
) -> list[str]:
    """Writes what sampling from a run needs, and nothing else: a workdir to be shipped.

    Arguments, result and errors are those of `to_bagel`; every model can be written.
    """
    made = configuration.load_workdir(workdir)
    expected = functional.abstract(functional.bare(configuration.model_config(made)))
    configuration.forget_adapters(made)
    names, load = checkpoint.leaf_loader(workdir, which=which, step=step, expected=expected)
    shapes, kind = flatten(expected), type_name(dtype)

    def produce(name: str) -> Iterator[np.ndarray]:
        yield np.asarray(load([name])[name]).astype(DTYPES[kind])

    leaves = {name: (tuple(shapes[name].shape), kind) for name in names}
    directory = first_checkpoint.new(target)
    files, known = first_checkpoint.write_leaves(directory, leaves, produce, shard_bytes)
    configuration.save(target, made)
    files += carry(workdir, target)
    first_checkpoint.finish(directory, known)
    return files


def leaf_source(
    workdir: Path, config: BagelConfig, *, which: str, step: int | None
) -> huggingface.Read:
    """(path, layer) -> array, from a checkpoint, holding one leaf (or less) at a time.

    Of converted weights one layer is held; of a training run a whole stacked leaf, which Orbax
    reads in twice its size: 14 GiB for the largest of the 7B model in float32.
    """
    expected = functional.abstract(config)
    converted = checkpoint.converted_weights(workdir, step)
    if converted is not None:

        def read_slice(path: str, layer: int | None) -> np.ndarray:
            if layer is None:
                return converted.read(path)
            return converted.read(path, (slice(layer, layer + 1),))[0]

        return read_slice
    _, load = checkpoint.leaf_loader(workdir, which=which, step=step, expected=expected)
    held: dict[str, np.ndarray] = {}

    def read(path: str, layer: int | None) -> np.ndarray:
        if path not in held:
            held.clear()
            held.update({name: np.asarray(leaf) for name, leaf in load([path]).items()})
        return held[path] if layer is None else held[path][layer]

    return read


def to_janus(
    workdir: Path, target: Path, *, which: str, step: int | None, dtype: str, shard_bytes: int
) -> list[str]:
    """Writes a run of Janus in the released format; all else as `to_bagel`."""
    config = _model_of(workdir, JanusConfig)
    read = leaf_source(workdir, config, which=which, step=step)
    options = {"dtype": dtype, "shard_bytes": shard_bytes}
    return janus_release.write(workdir, target, config, read, **options)


def _model_of(workdir: Path, kind: type) -> Any:
    """The sizes of a run. ValueError unless its model is of the kind that the target holds."""
    config = functional.bare(configuration.model_config(configuration.load_workdir(workdir)))
    if not isinstance(config, kind):
        is_janus = isinstance(config, JanusConfig)
        name = "janus" if is_janus else "bagel"
        raise ValueError(f"{workdir}: its model is written by --to {name}, not by this.")
    return config


def to_peft(
    workdir: Path, target: Path, *, which: str, step: int | None, dtype: str, shard_bytes: int
) -> list[str]:
    """Writes the adapters of a run for PEFT, as they are; all else as `to_bagel`."""
    return adapter_exchange.write(workdir, target, which=which, step=step)


TARGETS = {"bagel": to_bagel, "janus": to_janus, "weights": to_weights, "peft": to_peft}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="unireason convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    way = root.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", choices=SOURCES, help="format of --input")
    way.add_argument("--to", dest="target", choices=tuple(TARGETS), help="format of --output")
    root.add_argument("--input", required=True, type=command_line.path)
    root.add_argument("--output", required=True, type=command_line.path)
    root.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights written")
    about = "with --from bagel: whose release it is (default: by the name of --input, else bagel)"
    root.add_argument("--system", choices=tuple(STYLE_OF), help=about)
    root.add_argument("--shard_gib", type=float, default=5.0, help="size of a weight file")
    root.add_argument(
        "--vit", type=command_line.path, help="with --from qwen2: folder of a SigLIP release"
    )
    about = "with --from bagel: which file of the release [ema.safetensors, else model.safetensors]"
    root.add_argument("--weights", choices=tuple(huggingface.WEIGHTS), help=about)
    size = "with --from siglip: size of the language model"
    root.add_argument("--variant", choices=BAGEL_VARIANTS, default="bagel_7b_mot", help=size)
    fresh = "with --from qwen2 or siglip"
    root.add_argument("--ae", type=command_line.path, help=f"{fresh}: FLUX's ae.safetensors")
    root.add_argument("--latent_side", type=int, default=64, help=fresh)
    root.add_argument("--seed", type=int, default=0, help=fresh)
    about = "with --from peft: the run or converted folder that the adapter stands beside"
    root.add_argument("--base", type=command_line.path, help=about)
    root.add_argument("--which", choices=("ema", "params"), default="ema", help="with --to")
    root.add_argument("--step", type=int, help="with --to: not the newest checkpoint")
    return root


def convert(given: argparse.Namespace) -> list[str]:
    """What the command line asks for; returns what was done, one line each."""
    with lock.hold(given.output, "unireason convert"):
        return _convert(given)


def _convert(given: argparse.Namespace) -> list[str]:
    options = {"dtype": given.dtype, "shard_bytes": int(given.shard_gib * 2**30)}
    if given.source is None:
        options |= {"which": given.which, "step": given.step, "dtype": given.dtype or "bfloat16"}
        return TARGETS[given.target](given.input, given.output, **options)
    if given.source == "bagel":
        given_too = {"system": given.system, "weights": given.weights}
        return from_bagel(given.input, given.output, **given_too, **options)
    if given.source == "peft":
        if given.base is None:
            raise ValueError("--from peft: give --base, the weights that the adapter is for.")
        return adapter_exchange.read(given.input, given.output, base=given.base)
    if given.source == "janus":
        return janus_release.read(given.input, given.output, **options)
    options |= {"autoencoder": given.ae, "latent_side": given.latent_side, "seed": given.seed}
    parts = (given.input, given.vit)
    if given.source == "siglip":
        parts = (BAGEL_VARIANTS[given.variant].llm, given.input)
    return from_parts(*parts, given.output, **options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    given, started = parser().parse_args(arguments), time.monotonic()
    try:
        lines = convert(given)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{time.monotonic() - started:.1f} s, peak memory {peak:.2f} GiB")
    return 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # only reads and writes: leave accelerators alone
    sys.exit(main())
