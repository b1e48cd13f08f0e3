"""A converted Janus in the shared conversation draws and answers what the official code did."""

import dataclasses

import numpy as np
import pytest

from unireason_jax import convert
from unireason_jax.inference.code_drawing import CodeSettings
from unireason_jax.inference.load import load
from unireason_jax.inference.systems import catalog
from unireason_jax.proof.golden import read

PROMPT = "A red cup of tea on a wooden table."
pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def model(janus_goldens, tmp_path_factory):
    """The recorded release as a workdir, loaded to sample."""
    workdir = tmp_path_factory.mktemp("runs") / "janus"
    assert (
        convert.main(["--from", "janus", "--input", f"{janus_goldens}", "--output", f"{workdir}"])
        == 0
    )
    return load(workdir)


def request(model, name, text, **given):
    """A request of a preset, and its settings with the likeliest codes."""
    preset = catalog.find(name)
    settings = preset.settings(model.settings)
    greedy = CodeSettings(settings.codes.guidance, temperature=0.0)
    request = preset.request(text, style=model.style, **given)
    return request, dataclasses.replace(settings, codes=greedy, max_text=12)


@pytest.mark.slow
def test_a_picture_is_the_recorded_one(model, janus_goldens):
    asked, settings = request(model, "janus_t2i", PROMPT)
    (trace,) = model.run([asked], settings=settings)
    recorded, _ = read(janus_goldens / "t2i.safetensors")
    wanted = recorded["out.greedy.uint8"][0]
    assert np.abs(trace.steps[-1].image.astype(int) - wanted).max() <= 1


@pytest.mark.slow
def test_an_answer_is_the_recorded_one(model, janus_goldens):
    recorded, _ = read(janus_goldens / "understanding.safetensors")
    wanted = recorded["out.one.generated"][0].tolist()
    question = "What is the colour of the square?"
    image = str(janus_goldens / "images" / "wide.png")
    asked, settings = request(model, "janus_understand", question, image=image)
    (trace,) = model.run([asked], settings=settings)
    assert trace.steps[-1].cut
    assert trace.steps[-1].content == model.engine.spec.tokenizer.decode(wanted)


@pytest.mark.slow
def test_a_picture_is_the_same_alone_and_among_others(model):
    asked, settings = request(model, "janus_t2i", PROMPT)
    other, _ = request(model, "janus_t2i", "A blue bird.")
    settings = dataclasses.replace(settings, codes=CodeSettings(5.0, 1.0))
    (alone,) = model.run([asked], settings=settings)
    together = model.run([other, asked], settings=settings)
    assert np.array_equal(alone.steps[-1].image, together[1].steps[-1].image)
    assert not np.array_equal(alone.steps[-1].image, together[0].steps[-1].image)
