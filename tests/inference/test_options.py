"""Options of a call, and pictures as callers have them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import unireason_jax
from tests import untrained
from unireason_jax.inference import input_pictures
from unireason_jax.inference.settings import (
    OPTIONS,
    FlowSettings,
    Settings,
    TextSettings,
    with_options,
)
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.trace import Step, Trace

FAST = {"timesteps": 2, "preset": "t2i"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained run, on one device."""
    with pytest.MonkeyPatch.context() as patch:
        first = jax.local_devices()[:1]
        patch.setattr(jax, "local_devices", lambda: first)
        yield unireason_jax.load(untrained.write(tmp_path_factory.mktemp("run")))


def test_options_change_the_settings_of_their_call_alone():
    base = Settings(refine=FlowSettings(timesteps=9))
    options = {"size": [64, 32], "guidance": 2, "timesteps": np.int64(5), "temperature": 1}
    made = with_options(base, {**options, "top_p": None})
    assert made.size == made.edit_size == (64, 32) and base.edit_size is None
    for flow in (made.flow, made.refine):
        assert (flow.timesteps, flow.text_scale) == (5, 2.0)
        assert type(flow.timesteps) is int and type(flow.text_scale) is float
    assert made.text == TextSettings(1.0, 1.0)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("timesteps", 1, "timesteps must be >= 2, not 1"),
        ("timesteps", 2.5, "timesteps must be a whole number, not 2.5"),
        ("timesteps", "5", "timesteps must be a whole number, not '5'"),
        ("timesteps", True, "timesteps must be a whole number, not True"),
        ("timesteps", 10**400, "timesteps must be <= 100000"),
        ("guidance", float("nan"), "guidance must be a number >= 0, not nan"),
        ("guidance", -1.0, "guidance must be a number >= 0"),
        ("guidance", 10**400, "guidance must be a number >= 0, not 1000"),
        ("guidance", "4", "guidance must be a number >= 0, not '4'"),
        ("image_guidance", float("inf"), "image_guidance must be a number >= 0, not inf"),
        ("shift", 0, "shift must be a number > 0, not 0"),
        ("solver", "heun", "solver 'heun' is not one of euler, ab2, dpmpp_2m"),
        ("temperature", -0.1, "temperature must be a number >= 0, not -0.1"),
        ("temperature", [1], "temperature must be a number"),
        ("top_p", 0, "top_p must be a number > 0 and <= 1, not 0"),
        ("top_p", 1.5, "top_p must be a number > 0 and <= 1, not 1.5"),
        ("size", 512, r"size must be \(height, width\) in pixels, not 512"),
        ("size", (512,), r"size must be \(height, width\)"),
        ("size", (0, 8), "size must be >= 1, not 0"),
        ("size", (-8, 8), "size must be >= 1, not -8"),
        ("size", (8.0, 8), "size must be a whole number, not 8.0"),
        ("max_text", 0, "max_text must be >= 1, not 0"),
        ("min_rounds", -1, "min_rounds must be >= 0, not -1"),
    ],
)
def test_values_that_cannot_be_are_one_clear_line(option, value, message):
    with pytest.raises(ValueError, match=message) as told:
        with_options(Settings(), {option: value})
    assert "\n" not in str(told.value) and len(str(told.value)) < 200


def test_the_guidance_of_a_model_of_codes_is_that_of_its_codes():
    base = Settings(by_codes=True)
    made = with_options(base, {"guidance": 2, "temperature": 0.5, "size": None})
    assert made.codes == dataclasses.replace(base.codes, guidance=2.0)
    assert made.flow == base.flow and made.text.temperature == 0.5
    assert with_options(Settings(), {"guidance": 2}).codes == Settings().codes
    with pytest.raises(ValueError, match="guidance must be a number >= 0, not nan"):
        with_options(base, {"guidance": float("nan")})


@pytest.mark.parametrize(
    "option",
    [name for name, (part, _) in OPTIONS.items() if part == "flow" and name != "guidance"],
)
def test_options_of_flow_are_refused_by_a_model_of_codes(option):
    value = getattr(FlowSettings(), OPTIONS[option][1])
    value = "ab2" if value is None else value
    with pytest.raises(ValueError, match=f"{option} is of models that draw by flow"):
        with_options(Settings(by_codes=True), {option: value})


def test_a_call_takes_size_seed_and_lists(model):
    one = model.generate("a red circle", size=(16, 24), **FAST)
    assert one.image.shape == (16, 24, 3) and one.settings["flow"]["timesteps"] == 2
    assert model.settings.size == (32, 32)
    several = model.generate(["a red circle", "a blue square"], seed=7, **FAST)
    assert [trace.id for trace in several] == ["a red circle", "a blue square"]
    same, other, plain = (
        model.generate("a red circle", seed=seed, **FAST) for seed in (7, np.int64(8), 0)
    )
    assert np.abs(several[0].image.astype(int) - same.image).max() <= 1
    assert not np.array_equal(same.image, other.image)
    np.testing.assert_array_equal(plain.image, model.generate("a red circle", **FAST).image)
    assert same.details["seed"] == 7 and "seed" not in plain.details
    assert model.generate([], **FAST) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be >= 0"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"sample": -1}, "sample must be >= 0"),
        ({"rounds": "two"}, "rounds must be a whole number"),
        ({"negative_prompt": "blue"}, "'negative_prompt' is not supported"),
        ({"num_inference_steps": 3}, "did you mean 'timesteps'"),
        ({"guidance_scale": 3}, "did you mean 'guidance'"),
        ({"name": 3}, "field 'id' is not a text"),
        ({"image": "no.png"}, "takes no image"),
        ({"preset": 3}, "field 'preset' is not a text but a number"),
    ],
)
def test_wrong_options_are_refused_by_name(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate("a red circle", **{"preset": "t2i"} | options)


@pytest.mark.parametrize("prompt", [None, 3, "\ud800", ["a red circle", None], b"a red circle"])
def test_prompts_that_are_no_text(model, prompt):
    with pytest.raises(ValueError, match="field 'prompt'"):
        model.generate(prompt, **FAST)


def picture(size=(32, 32), color=(250, 10, 20)):
    return Image.new("RGB", size, color)


def test_the_size_of_an_edit_is_obeyed(model):
    kept = model.edit(np.asarray(picture((24, 16))), "add a red circle", timesteps=2)
    assert kept.image.shape == (16, 24, 3)
    told = model.edit(np.asarray(picture((24, 16))), "add a red circle", timesteps=2, size=(32, 8))
    assert told.image.shape == (32, 8, 3) and told.steps[1].image.shape == (16, 24, 3)
    with pytest.raises(ValueError, match="30 x 32 pixels: give multiples of 8"):
        model.edit(picture(), "add a red circle", size=(30, 32))
    wide = dataclasses.replace(model.settings, size=(30, 30))  # plays no part in an edit
    asked = catalog.find("edit").request("add a circle", image=np.asarray(picture()))
    model.check(asked, wide)


def test_a_conversation_goes_on_with_another_instruction(model):
    drawn = model.generate("a red circle", **FAST)
    edited = model.edit(drawn, "add a blue square", timesteps=2)
    assert edited.roles == ["user", "image", "user", "image"]
    np.testing.assert_array_equal(edited.steps[1].image, drawn.image)
    alone = model.edit(drawn.image, "add a blue square", timesteps=2)
    np.testing.assert_array_equal(edited.image, alone.image)
    assert edited.request == "a red circle / add a blue square"
    answered = model.ask(edited, "what color is the circle ?")
    assert answered.roles == [*edited.roles, "user", "answer"]
    with pytest.raises(ValueError, match="no image to go on with"):
        model.edit(Trace("t", "x", (Step("text", "user", text="x"),)), "add a circle")


def test_pictures_of_every_kind_are_rgb_and_upright():
    red = np.asarray(picture(color=(255, 0, 0)))
    half = np.full((32, 32, 4), (255, 0, 0, 0), np.uint8)
    half[:16, :, 3] = 255
    on_white = input_pictures.picture(half)
    assert (on_white[:16] == red[:16]).all() and (on_white[16:] == 255).all()
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for array in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(input_pictures.picture(array), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(input_pictures.picture(jnp.asarray(red)), red)
    for mode in ("RGB", "RGBA", "P", "CMYK", "HSV", "YCbCr", "LAB"):
        found = input_pictures.picture(Image.fromarray(half[:16]).convert("RGB").convert(mode))
        assert found.dtype == np.uint8 and found.shape == (16, 32, 3)
        assert np.abs(found.astype(int) - red[:16]).max() < 12, mode
    for mode in ("1", "L", "LA", "I;16", "I", "F"):
        assert input_pictures.picture(Image.new(mode, (6, 4))).shape == (4, 6, 3), mode
    turned = picture((4, 2))
    turned.getexif()[0x0112] = 6
    assert input_pictures.picture(turned).shape == (4, 2, 3)
    assert input_pictures.pictures(["a.png", b"x"]) == ["a.png", b"x"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 3)), r"not float64 \[4, 4, 3\]"),
        (np.zeros((4, 4, 2), np.uint8), r"not uint8 \[4, 4, 2\]"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (3, "not int"),
        ([], "list of images is empty"),
        ([[1, 2]], "not list"),
    ],
)
def test_what_is_no_picture_is_named(source, message):
    with pytest.raises(ValueError, match=message):
        input_pictures.pictures(source)


def test_several_pictures_and_a_users_photograph(model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture((32, 16)).save(tmp_path / "a.jpg", exif=exif)
    seen = model.edit([tmp_path / "a.jpg", picture()], "add a red circle", timesteps=2)
    shapes = [step.image.shape[:2] for step in seen.steps if step.given and step.image is not None]
    assert shapes == [(32, 16), (32, 32)]
    with pytest.raises(ValueError, match="takes no image"):
        model.generate("a red circle", preset="t2i", image=[picture()])
