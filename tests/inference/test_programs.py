"""How many programs are compiled: few, however many prompts."""

import jax
import pytest

from tests.inference import toy
from unireason_jax.inference.continuous_batching import Live
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.server import process
from unireason_jax.world.tasks import example

pytestmark = [pytest.mark.usefixtures("quick_compile"), pytest.mark.slow]

COMPILED = "/jax/core/compile/backend_compile_duration"
PROMPTS = [example(0, number, "t2i", side=toy.SIDE)["prompt"] for number in range(120)]
KNOWN = [prompt for prompt in PROMPTS if not toy.spec().tokenizer.unknown(prompt)][:32]


@pytest.fixture
def compiled():
    """Names of the programs that are compiled while a test runs."""
    found, listens = [], [True]

    def note(event, seconds, **named):
        if listens and event == COMPILED:
            found.append(named.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    listens.clear()


@pytest.fixture(scope="module")
def model():
    """Nobody else has compiled for it."""
    sizes = {"vocab": toy.config().llm.vocab + 8}  # of its own
    latent, vit = {"channels": 24, "patch": 1, "side": 4}, {"patch": 8, "side": 4}
    config = variant("nano", llm=sizes, latent=latent, vit=vit)
    params = jax.jit(functional.init, static_argnums=0)(config, jax.random.key(1))
    return Reasoner(config, params, toy.spec(), toy.settings(batch_rows=8, learned_stop=False))


def test_prompts_share_few_programs(compiled, model):
    assert len(KNOWN) == 32
    compiled.clear()
    model.generate(KNOWN[:16], preset="refine_t2i", rounds=1)
    assert 5 <= len(compiled) <= 20
    compiled.clear()
    model.generate(KNOWN[16:], preset="refine_t2i", rounds=1)
    assert len(compiled) <= 2


def test_a_server_that_is_warm_compiles_nothing_for_a_picture(compiled, model):
    compiled.clear()
    process.warm(model, Live(model.engine, 2, slots=process.SLOTS))
    assert compiled.count("jit(draw_some)") == 1 and len(compiled) <= 16
    compiled.clear()
    live, ended = Live(model.engine, 2, slots=process.SLOTS), []
    live.add(*model.prepare("generate", KNOWN[0]), lambda news: ended.append(news.kind))
    while live.guests:
        live.work()
    assert ended[-1] == "end" and not compiled
