"""Traces survive saving, and their pictures have room for everything."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw

from unireason_jax.inference import trace as traces
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.pictures import fonts
from unireason_jax.pictures import strips as pictures


def image(value, size=32):
    return np.random.default_rng(value).integers(0, 256, (size, size, 3)).astype(np.uint8)


def a_trace(text="change the yellow cross at d1 to a blue square"):
    return Trace(
        id="p/1",
        template="refine_t2i",
        sample=2,
        ended="stop",
        seconds={"draw": 0.5},
        settings={"size": [32, 32]},
        details={"tag": "position"},
        steps=(
            Step("text", "user", text="a red circle , left of a blue square", given=True),
            Step("text", "plan", text="red circle large b2", seed=3, forwards=6, handover="image"),
            Step("image", "draft", image=image(0), seed=4, forwards=44, verdict=False),
            Step("text", "reflection", text=text, seed=5, forwards=9, handover="image", cut=True),
            Step("image", "refined", image=image(1), seed=6, forwards=44, verdict=True),
            Step("text", "reflection", text="no change", seed=7, forwards=4, handover="stop"),
        ),
    )


def test_save_and_load(tmp_path):
    trace = a_trace()
    folder = trace.save(tmp_path / "one")
    back = traces.load(folder)
    for field in dataclasses.fields(Trace):
        if field.name != "steps":
            assert getattr(back, field.name) == getattr(trace, field.name)
    for one, two in zip(trace.steps, back.steps, strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert dataclasses.replace(one, image=None) == dataclasses.replace(two, image=None)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["02_draft.png", "04_refined.png", "strip.png", "trace.json"]


def test_what_a_trace_tells():
    trace = a_trace()
    assert trace.forwards == 107 and trace.rounds == 1
    assert trace.request == "a red circle, left of a blue square"
    assert trace.text_of("reflection") == "no change" and trace.texts[0] == "red circle large b2"
    np.testing.assert_array_equal(trace.image, image(1))
    judged = trace.judged({2: True}, reason="x")
    assert [s.verdict for s in judged.steps if s.image is not None] == [True, True]
    assert judged.details == {"tag": "position", "reason": "x"}


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no trace\.json"):
        traces.load(tmp_path)
    (tmp_path / "trace.json").write_text('{"steps": [{"colour": 1}]}')
    with pytest.raises(ValueError, match="not a trace"):
        traces.load(tmp_path)


def test_panels_put_texts_beneath_the_image_they_belong_to():
    panels = a_trace().panels()
    assert [panel.title for panel in panels] == ["draft", "refined 1"]
    assert [note.label for note in panels[0].notes] == ["plan", "reflection"]
    assert panels[1].notes[0].text == "no change" and panels[1].verdict
    only_text = Trace("t", "think_t2i", (Step("text", "plan", text="x"),))
    assert only_text.panels()[0].image is None and only_text.strip().width > 0


def test_longer_texts_make_a_higher_strip():
    short, long = (a_trace(text).strip() for text in ("short", "word " * 80))
    assert long.height > short.height and long.width == short.width
    assert np.asarray(long)[-pictures.MARGIN + 4 :].min() == 255  # the margin stays empty


def test_images_are_drawn_pixel_for_pixel():
    panel = pictures.Panel("draft", image(3))
    sheet = np.asarray(pictures.strip("t", [panel]))
    block = np.kron(image(3), np.ones((6, 6, 1), np.uint8))
    views = np.lib.stride_tricks.sliding_window_view(
        sheet[:, pictures.MARGIN :], (192, 192), (0, 1)
    )
    assert any(np.array_equal(view[0].transpose(1, 2, 0), block) for view in views)


@pytest.mark.parametrize("text", ["", "one", "a " * 50, "x" * 300, "short " + "y" * 90 + " end"])
def test_wrapping_loses_nothing(text):
    lines = fonts.wrap(text, 14, 120)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(fonts.length(line, 14) <= 120 for line in lines)


def test_contact_sheet_holds_every_strip():
    strips = [a_trace().strip() for _ in range(3)]
    sheet = pictures.contact_sheet(strips, title="t", columns=2)
    assert sheet.width == 2 * strips[0].width
    assert sheet.height == 56 + 2 * strips[0].height
    assert pictures.contact_sheet([]).width > 0


def large(value, height=1024):
    return np.full((height, 1024, 3), value, np.uint8)


def test_large_pictures_and_long_plans_have_room():
    steps = (
        Step("text", "user", text="a harbour", given=True),
        Step("text", "plan", text="some words of a plan " * 80),
        Step("image", "draft", image=large(90)),
        Step("image", "refined", image=large(30)),
    )
    sheet = Trace("p", "refine_t2i", steps).strip()
    assert 1000 < sheet.width < 1200 and sheet.height < 1.6 * sheet.width
    pixels = np.asarray(sheet)
    assert (pixels == 90).all(-1).sum() == 512**2  # half of its size, none of it hidden
    many = Trace("p", "process", steps[:2] + steps[2:] * 10).strip()
    assert many.width < 5000


def test_a_text_cut_by_the_limit_is_marked():
    def strip(cut):
        steps = (
            Step("text", "plan", text="red circle", cut=cut),
            Step("image", "d", image=image(0)),
        )
        return np.asarray(Trace("p", "think_t2i", steps).strip()).astype(int)

    whole, cut = strip(False), strip(True)
    assert cut.shape[0] > whole.shape[0]
    red = (np.abs(cut[whole.shape[0] - 40 :] - pictures.BAD).sum(-1) < 90).sum()
    assert red > 50


@pytest.mark.parametrize("text", ["红色的圆形气球", "빨간 풍선", "赤い風船、青い家"])
def test_east_asian_texts_have_letters(text):
    """As many different shapes as characters: none is the empty box."""
    assert fonts.complaint(text) == ""
    shapes = set()
    for character in set(text) - {" "}:
        sheet = Image.new("L", (40, 40))
        fonts.write(ImageDraw.Draw(sheet), (5, 5), character, 255, 24)
        assert sheet.getbbox()
        shapes.add(sheet.tobytes())
    assert len(shapes) == len(set(text) - {" "})


def test_characters_without_letters_are_named(monkeypatch):
    assert fonts.complaint("a \U0001f642 b") == "no typeface here has U+1F642"
    monkeypatch.setattr(fonts, "asian", lambda size: None)
    fonts._typeface.cache_clear()
    told = fonts.complaint("ab 圆形")
    fonts._typeface.cache_clear()
    assert told == "no typeface here has U+5706, U+5F62; pip install noto-cjk-sans-otc"


def test_lines_of_chinese_begin_with_no_closing_mark():
    text = "画面中央是一只红色的圆形气球，左边有一座蓝色的房子。" * 6  # noqa: RUF001
    lines = fonts.wrap(text, 14, 150)
    assert "".join(lines) == text and all(fonts.length(line, 14) <= 150 for line in lines)
    assert not any(line[0] in "，。" for line in lines)  # noqa: RUF001
