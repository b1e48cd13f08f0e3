"""A small random model of the embedded world, shared by the tests of sampling."""

import functools

import jax

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.text.tokenizer import SentencePieceTokenizer
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import FlowSettings, Settings
from unireason_jax.models import functional
from unireason_jax.models.config import BagelConfig, variant
from unireason_jax.world.basis import PatchBasis
from unireason_jax.world.tasks import example

SIDE = 3


@functools.cache
def spec() -> SampleSpec:
    """The world's codec and a vocabulary of a few of its texts."""
    texts = []
    for index in range(60):
        raw = example(0, index, "refine_t2i", side=SIDE, render=False)
        texts += [raw["prompt"], raw["explanation"], raw["final_reflection"]]
        texts += [step["reflection"] for step in raw["rounds"]]
        raw = example(0, index, "edit", side=SIDE, render=False)
        texts.append(raw["instruction"])
        raw = example(0, index, "vqa", side=SIDE, render=False)
        texts += [raw["question"], raw["answer"]]
    return SampleSpec(
        SentencePieceTokenizer.train(texts),
        PatchBasis.create(),
        latent_patch=1,
        latent_side=4,
        vit_patch=8,
        vit_side=4,
        max_text=200,
    )


@functools.cache
def config() -> BagelConfig:
    """Nano sizes with the world's tokens."""
    return variant(
        "nano",
        llm={"vocab": -(-spec().tokenizer.vocab_size // 8) * 8},
        latent={"channels": 24, "patch": 1, "side": 4},
        vit={"patch": 8, "side": 4},
    )


@functools.cache
def params():
    """Random, also where training starts with zeros, so that images depend on their context."""
    drawn = jax.jit(functional.init, static_argnums=0)(config(), jax.random.key(1))
    kernel = drawn["latent_out"]["kernel"]
    drawn["latent_out"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(2), kernel.shape)
    return drawn


def settings(**changes) -> Settings:
    flow = FlowSettings(
        **({"timesteps": 5, "text_scale": 2.0, "image_scale": 1.0} | changes.pop("flow", {}))
    )
    return Settings(**({"flow": flow, "max_text": 12, "size": (24, 24)} | changes))


def reasoner(**changes) -> Reasoner:
    return Reasoner(config(), params(), spec(), settings(**changes))
