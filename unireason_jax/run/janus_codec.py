"""What a run of Janus has in the place of latents: pictures as codes."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.image_sizes import SizeCodes
from unireason_jax.data.janus.pictures import Square
from unireason_jax.data.resizing import Buckets
from unireason_jax.data.text.tokenizer import Tokenizer
from unireason_jax.models.janus import release
from unireason_jax.models.janus.config import JanusConfig, VQConfig
from unireason_jax.models.janus.vq import VQTokenizer
from unireason_jax.run.configuration import ConfigError
from unireason_jax.storage import atomic
from unireason_jax.world.cells import CellCodes

FILE = "vq.safetensors"


def codec(config: ConfigDict, sizes: str) -> VQTokenizer | CellCodes:
    """What makes codes of the pictures of a config, whose records have sizes of some name.

    Raises:
      ConfigError: the records are pictures, and no VQ tokenizer is named.
      FileNotFoundError, ValueError: it cannot be read.
    """
    if config.data.vq:
        return release.load_tokenizer(config.data.vq)
    if sizes != "world":
        raise ConfigError("config.data.vq: name the vq.safetensors of a converted Janus.")
    return CellCodes()


def stand_in(model: JanusConfig) -> SizeCodes:
    """In the place of `codec` where the records are not there."""
    return SizeCodes(VQConfig().stride, model.codes.size)


def load(workdir: epath.Path) -> VQTokenizer | CellCodes:
    """The VQ tokenizer that a run or a converted folder has, else the world's codes."""
    path = workdir / FILE
    return release.load_tokenizer(path) if path.exists() else CellCodes()


def keep(config: ConfigDict, workdir: epath.Path) -> None:
    """Copies the VQ tokenizer of a config, if it names one, to where `load` looks for it."""
    if config.data.vq:
        with atomic.replacing(workdir / FILE) as part:
            epath.Path(config.data.vq).copy(part, overwrite=True)


def sample_spec(
    config: ConfigDict, model: JanusConfig, tokenizer: Tokenizer, codec: Any
) -> SampleSpec:
    """How the config's records become tokens of the model.

    Pictures of a released model are looked at whole, in a square, and drawn from their middle.

    Raises:
      ConfigError: they do not fit together; the message says which key to set.
    """
    if codec.codes > model.codes.size:
        raise ConfigError(
            f"the codec has {codec.codes} codes but the model {model.codes.size}; "
            f"set --config.model.codes.size={codec.codes}."
        )
    vit, rules = model.vit, {}
    if not isinstance(codec, CellCodes):
        side = codec.stride * model.codes.side
        rules["latent_resize"] = Buckets(side, side, side)
        rules["vit_resize"] = Square(vit.side * vit.patch) if vit else None
    return SampleSpec(
        tokenizer=tokenizer,
        codec=codec,
        latent_patch=1,
        latent_side=model.codes.side,
        vit_patch=vit.patch if vit else 0,
        vit_side=vit.side if vit else 1,
        dropout=tuple(config.data.dropout),
        weighting=config.data.weighting,
        interpolate=config.data.interpolate,
        **rules,
    )
