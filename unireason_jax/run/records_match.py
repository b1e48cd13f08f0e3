"""A run and its words belong together: weights mean something only with the ids they learned.

    <workdir>/data.json     image sizes and autoencoder of the run's records

Before a run writes anything, the tokenizer, the image sizes and the autoencoder of its records are
compared with those of the weights it starts from: its own checkpoint's, or those of `resume_from`
or `init_from`. Compared is what they do, not how their files are spelled.
"""

import filecmp
import json
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data.bagel import latents
from unireason_jax.data.image_sizes import SizeCodec
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text.tokenizer import (
    Qwen2Tokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)
from unireason_jax.models.archive import ArchiveError, read_json
from unireason_jax.models.config import BagelConfig
from unireason_jax.run import corpus, tokenizing
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.drawing_assets import AUTOENCODER
from unireason_jax.run.run import CODEC, TOKENIZER, Run, load_codec
from unireason_jax.storage import atomic, paths
from unireason_jax.training import checkpoint_manifest

FILE = "data.json"


def check(run: Run, workdir: epath.PathLike) -> None:
    """Compares the records of a run with the weights it starts from.

    Raises:
      ConfigError: they do not belong together; the message says what differs and what to do.
    """
    base, key = _base(run.config, epath.Path(workdir)) if run.has_records else (None, "")
    if base is None:
        return
    if (base / TOKENIZER).exists():
        _same_words(run.tokenizer, base, key)
    has_codec = (base / AUTOENCODER).exists() or (base / CODEC).exists()
    if has_codec and isinstance(run.model, BagelConfig):
        _same_codec(run, base, key)
    if key != "init_from" and (base / FILE).exists():  # other weights may learn other sizes
        _same_data(run.config, base, key)


def known_words(run: Run) -> int | None:
    """How many ids the weights of `init_from` know, where the run's words go on behind them."""
    folder = checkpoint_manifest.workdir_of(run.config.init_from) / TOKENIZER
    if not run.has_records or not folder.exists():
        return None
    theirs = load_tokenizer(folder)
    goes_on = type(theirs) is type(run.tokenizer) and _continues(run.tokenizer, theirs)
    return theirs.vocab_size if goes_on and theirs.words != run.tokenizer.words else None


def save(run: Run, workdir: epath.PathLike) -> None:
    """Writes what the next start is compared with, beside what `Run.save` writes."""
    atomic.write_text(epath.Path(workdir) / FILE, json.dumps(_of_records(run.config)) + "\n")


def _base(config: ConfigDict, workdir: epath.Path) -> tuple[epath.Path | None, str]:
    """The folder of the weights that the run starts from, and what names it."""
    if checkpoint_manifest.steps(workdir):
        return workdir, "workdir"
    for key in ("resume_from", "init_from"):
        if config[key] and config[key] != "scratch":
            return checkpoint_manifest.workdir_of(config[key]), key
    return None, ""


def _same_words(ours: Tokenizer, base: epath.Path, key: str) -> None:
    """Raises ConfigError where the same text has other ids."""
    folder = base / TOKENIZER
    theirs = load_tokenizer(folder)
    if type(theirs) is not type(ours):
        difference = "one is of words, the other of bytes"
    else:
        mine, other = _vocabulary(ours), _vocabulary(theirs)
        if mine == other or (key == "init_from" and _continues(ours, theirs)):
            return
        at = next((i for i, (a, b) in enumerate(zip(mine, other)) if a != b), None)
        difference = f"{len(mine):,} pieces here, {len(other):,} there"
        if at is not None:
            difference += f"; {mine[at][:40]!r} here is {other[at][:40]!r} there"
    raise ConfigError(
        f"the records' tokenizer is not that of the weights in {base} ({difference}): every word "
        f"would mean another. Prepare the records with --tokenizer={folder}, or start from other "
        f"weights ({_way_out(key)})."
    )


def _continues(ours: Tokenizer, theirs: Tokenizer) -> bool:
    """Whether all words of theirs keep their ids and others stand behind them, to be learned."""
    if not isinstance(ours, SentencePieceTokenizer):
        return False  # more merges of bytes change the ids of what was there
    return ours.words[: len(theirs.words)] == theirs.words


def _vocabulary(tokenizer: Tokenizer) -> list[str]:
    """What decides the ids of a text, in an order of its own."""
    if isinstance(tokenizer, Qwen2Tokenizer):
        return tokenizer.rules
    return tokenizer.words


def _same_codec(run: Run, base: epath.Path, key: str) -> None:
    """Raises ConfigError where the same picture has other latents."""
    ours, vae = run.codec, run.config.data.vae
    if vae and _same_bytes(epath.Path(vae), base / AUTOENCODER):
        return
    if isinstance(ours, SizeCodec):  # made ahead of time, by what the manifest says
        probes = _of_records(run.config)["latents"]
    else:
        probes = [latents.probe(ours)]
    theirs = latents.probe(load_codec(base))
    for mine in probes:
        if not latents.is_same(theirs, mine):
            raise ConfigError(
                f"the records' autoencoder is not that of the weights in {base}: pictures would "
                "have other latents. Set --config.data.vae to the one in that folder (or encode "
                f"the records with it), or start from other weights ({_way_out(key)})."
            )


def _same_bytes(one: epath.Path, other: epath.Path) -> bool:
    """Whether two local files have the same content."""
    is_there = paths.is_local(one) and paths.is_local(other) and other.exists()
    return is_there and filecmp.cmp(one, other, shallow=False)


def _same_data(config: ConfigDict, base: epath.Path, key: str) -> None:
    """Raises ConfigError where image sizes, or latents made ahead of time, are others."""
    theirs, ours = _saved(base / FILE), _of_records(config)
    if theirs["sizes"] != ours["sizes"]:
        raise ConfigError(
            f"the records have the image sizes {ours['sizes']}, those of the run in {base} "
            f"{theirs['sizes']}. Prepare them with the same --sizes, or start a new --workdir with "
            f"--config.init_from={base}."
        )
    for mine in ours["latents"]:
        if not any(latents.is_same(mine, other) for other in theirs["latents"] or [mine]):
            raise ConfigError(
                f"the records' latents are of another autoencoder than those of the run in {base}. "
                f"Encode them with the same one (unireason encode), or {_way_out(key)}."
            )


def _saved(path: epath.Path) -> dict[str, Any]:
    """What `save` wrote. Raises ConfigError naming the file."""
    try:
        found = read_json(path)
        probes = [np.asarray(probe, float).tolist() for probe in found["latents"]]
        return {"sizes": str(found["sizes"]), "latents": probes}
    except (ArchiveError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{path} is damaged; remove it, and it is written again at the next start."
        ) from None


def _of_records(config: ConfigDict) -> dict[str, Any]:
    """Name of the image sizes, and probes of latents made ahead of time, of a config's records."""
    manifests = [ArrayRecordSource(path).manifest for path in corpus.prepared(config)]
    return {
        "sizes": tokenizing.sizes_of(config),
        "latents": [m["latents"]["probe"] for m in manifests if "latents" in m],
    }


def _way_out(key: str) -> str:
    """How the user chooses other weights."""
    return "another --workdir" if key == "workdir" else f"another --config.{key}"
