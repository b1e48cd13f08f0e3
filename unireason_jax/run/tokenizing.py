"""How the records of a config become tokens: the tokenizer, sizes and codec that belong to them."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from unireason_jax.data.bagel import latents
from unireason_jax.data.bagel.tokens import LatentCodec, SampleSpec
from unireason_jax.data.image_sizes import SIZES, SMALLER, SizeCodec
from unireason_jax.data.resizing import Resize
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text import vocabulary
from unireason_jax.data.text.tokenizer import Tokenizer, load_tokenizer, world_tokenizer
from unireason_jax.models import vae
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.models.janus.vq import VQTokenizer
from unireason_jax.run import configuration, corpus, janus_codec
from unireason_jax.run.configuration import ConfigError
from unireason_jax.storage import paths
from unireason_jax.world.basis import PatchBasis
from unireason_jax.world.tasks import is_hard

_IMAGES = ("latent_resize", "vit_resize")


def tokenizer_and_codec(config: ConfigDict) -> tuple[Tokenizer, LatentCodec, dict[str, Any]]:
    """What turns records into tokens: tokenizer, codec, and resize rules for `SampleSpec`.

    Prepared folders bring their tokenizer and sizes along; for files `data.tokenizer` and
    `data.sizes` say them.

    Raises:
      ConfigError: prepared folders do not belong together, or unknown sizes.
      FileNotFoundError, ValueError: records are not there, or cannot be opened.
    """
    if missing := corpus.absent(config):
        raise FileNotFoundError(
            f"{missing[0]} does not exist; write the records with `unireason prepare`, or change "
            "config.data.source and config.data.groups."
        )
    name = sizes_of(config)
    tokenizer, sizes = _tokenizer(config, corpus.prepared(config)), SIZES[name]
    if isinstance(configuration.model_config(config), JanusConfig):
        return tokenizer, janus_codec.codec(config, name), {}
    if name == "world":
        return tokenizer, PatchBasis.create(), {}
    codec = vae.Autoencoder(*vae.load(config.data.vae)) if config.data.vae else sizes["codec"]
    return tokenizer, codec, {name: sizes[name] for name in _IMAGES if name in sizes}


def sizes_of(config: ConfigDict) -> str:
    """The name of the records' image sizes.

    Raises:
      ConfigError: folders were prepared with several, or there is no such name.
    """
    names = {ArrayRecordSource(folder).manifest["sizes"] for folder in corpus.prepared(config)}
    names = names or {config.data.sizes or ("world" if config.data.source == "world" else "bagel")}
    if len(names) > 1:
        raise ConfigError(
            f"config.data.groups: the folders were prepared with the sizes {sorted(names)}; "
            "prepare them alike."
        )
    (name,) = names
    if name not in SIZES:
        raise ConfigError(f"config.data.sizes is {name!r}; use one of {', '.join(SIZES)}.")
    return name


def smaller_sizes(config: ConfigDict) -> dict[str, Any] | None:
    """Resize rules of a config's sizes where these are smaller than the released ones."""
    sizes = SMALLER.get(config.data.get("sizes", ""))
    return sizes and {name: sizes[name] for name in _IMAGES}


def stand_ins(model: ModelConfig) -> tuple[Tokenizer, LatentCodec, dict[str, Any]]:
    """In the place of `tokenizer_and_codec` where the records are not there: sizes without data."""
    if isinstance(model, JanusConfig):
        return world_tokenizer(), janus_codec.stand_in(model), {}
    return world_tokenizer(), SizeCodec(8, model.latent.channels), {}


def sample_spec(
    config: ConfigDict,
    model: ModelConfig,
    tokenizer: Tokenizer,
    codec: LatentCodec,
    resize: Mapping[str, Any] | None = None,
) -> SampleSpec:
    """How the config's records become tokens of the model.

    Args:
      config, model: the resolved config and its model.
      tokenizer, codec: text <-> ids, pictures <-> latents.
      resize: rules for the copies of an image that go before those of the codec.

    Raises:
      ConfigError: they do not fit together; the message says which key to set.
    """
    if tokenizer.vocab_size > model.llm.vocab:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} pieces but the model {model.llm.vocab} "
            f"rows; set --config.model.llm.vocab to at least {tokenizer.vocab_size}."
        )
    if isinstance(model, JanusConfig):
        return janus_codec.sample_spec(config, model, tokenizer, codec)
    if codec.channels != model.latent.channels:
        raise ConfigError(
            f"the codec has {codec.channels} channels but the model {model.latent.channels}; "
            f"set --config.model.latent.channels={codec.channels}."
        )
    vit, rules = model.vit, {}
    if isinstance(codec, vae.Autoencoder):
        latent = codec.stride * model.latent.patch, model.latent.side
        rules["latent_resize"] = _resize(1024, 512, *latent)
        rules["vit_resize"] = _resize(980, 224, vit.patch, vit.side) if vit else None
    return SampleSpec(
        tokenizer=tokenizer,
        codec=codec,
        latent_patch=model.latent.patch,
        latent_side=model.latent.side,
        vit_patch=vit.patch if vit else 0,
        vit_side=vit.side if vit else 1,
        dropout=tuple(config.data.dropout),
        weighting=config.data.weighting,
        interpolate=config.data.interpolate,
        **rules | dict(resize or {}),
    )


def _resize(most: int, least: int, cell: int, side: int) -> Resize:
    """BAGEL's rule for a kind of copy, for tables of `side` cells."""
    longest = min(most, cell * side)
    return Resize(longest, min(least, longest // 2), cell)


def check_latents(sources: corpus.Sources, codec: LatentCodec) -> None:
    """Whether a run has latents of one kind only.

    Raises:
      ConfigError: records hold images, and the run has no autoencoder.
      ValueError: a folder holds latents of another autoencoder than the run's own.
    """
    if hasattr(codec, "codes"):
        return  # codes are made of pictures, whatever else a folder holds
    for name, source in sources.items():
        manifest = getattr(source, "manifest", {})
        if not isinstance(codec, SizeCodec):
            latents.check(manifest, codec, name)
        elif "latents" not in manifest:
            raise ConfigError(
                f"{name} holds no latents; run `unireason encode` on it, or set --config.data.vae."
            )


def codec_for_workers(sources: corpus.Sources, codec: LatentCodec, workers: int) -> LatentCodec:
    """The codec that loader processes render with: one without JAX, which belongs to this process.

    Raises:
      ConfigError: they would have to run the autoencoder.
    """
    if not workers or not isinstance(codec, vae.Autoencoder | VQTokenizer):
        return codec
    if isinstance(codec, VQTokenizer):
        raise ConfigError(
            f"config.data.workers={workers}: loader processes cannot run the VQ tokenizer of "
            "config.data.vq; set config.data.workers=0."
        )
    for name, source in sources.items():
        if "latents" not in getattr(source, "manifest", {}):
            raise ConfigError(
                f"config.data.workers={workers}: {name} holds images, and loader processes cannot "
                "run the autoencoder of config.data.vae; set config.data.workers=0, or store the "
                "latents first (unireason encode)."
            )
    return SizeCodec(codec.stride, codec.channels)


def check_words(config: ConfigDict, sources: corpus.Sources, tokenizer: Tokenizer) -> None:
    """Prints a line for every source with words that the tokenizer does not know.

    Raises:
      ConfigError: a source has more of them than `data.max_unknown`.
    """
    most = config.data.get("max_unknown", vocabulary.LIMIT)
    try:
        for line in vocabulary.check(sources, tokenizer, most, "--config.data.max_unknown"):
            print(line)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _tokenizer(config: ConfigDict, folders: list[Path]) -> Tokenizer:
    """The tokenizer of prepared folders, else the config's, else the world's.

    Raises:
      ConfigError: the folders have different ones.
    """
    if not folders:
        path, hard = config.data.tokenizer, is_hard(config.data.mixture) * config.data.side
        return load_tokenizer(paths.of(path)) if path else world_tokenizer(hard=hard)
    first, *others = [folder / "tokenizer" for folder in folders]
    for other in others:
        if not _alike(first, other):
            raise ConfigError(
                f"config.data.groups: {first} and {other} differ; prepare all groups with one "
                "--tokenizer."
            )
    return load_tokenizer(first)


def _alike(one: Path, two: Path) -> bool:
    """Whether two folders hold the same tokenizer, be it in other files."""
    if _files(one) == _files(two):
        return True
    return pickle.dumps(load_tokenizer(one)) == pickle.dumps(load_tokenizer(two))


def _files(folder: Path) -> dict[str, bytes]:
    """The contents of a small folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
