"""Records refuse what contradicts itself, and name it."""

import pickle

import numpy as np
import pytest

from unireason_jax.data.prepared import serialization
from unireason_jax.data.records import Record, RecordError, Segment, untag

PIXELS = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (Segment("video", "x"), "field 'kind' is 'video'"),
        (Segment("text", "x", text=3), "field 'text' is int; give a string, or None for a hole"),
        (Segment("text", "x", text="a", image=PIXELS), "carries an image"),
        (Segment("text", "x", text="a", loss="flow"), "a text takes loss='text'"),
        (Segment("text", "x", text="a", und=True), "are for images"),
        (Segment("text", "x", text="a", loss="ce"), "field 'loss' is 'ce'"),
        (Segment("text", "x", text="a", next="eos"), "field 'next' is 'eos'"),
        (Segment("text", "x", text="a", weight=0.0), "field 'weight' is 0.0"),
        (Segment("text", "x", text="a", weight=float("nan")), "field 'weight' is nan"),
        (Segment("image", "x", image=PIXELS), "neither target nor shown"),
        (Segment("image", "x", image=PIXELS, und=True, text="a"), "carries text or a tag"),
        (Segment("image", "x", image=PIXELS, und=True, loss="text"), "an image takes loss='flow'"),
        (Segment("image", "x", image=PIXELS[..., 0], und=True), r"uint8 \(4, 4\); give uint8"),
        (Segment("image", "x", image=PIXELS / 2, und=True), "float64"),
        (Segment("image", "x", image=7, und=True), "field 'image' is int"),
    ],
)
def test_contradictions_name_record_segment_and_field(segment, message):
    good = Segment("text", "user", text="hello")
    with pytest.raises(RecordError, match=f"record 'r1', segment 1: .*{message}") as error:
        Record("r1", (good, segment))
    assert (error.value.record_id, error.value.segment) == ("r1", 1)


def test_an_empty_record_is_refused():
    with pytest.raises(RecordError, match="record 'empty': has no segments"):
        Record("empty", ())


def test_errors_survive_a_trip_between_processes():
    error = pickle.loads(pickle.dumps(RecordError("a", 2, "broken")))
    assert str(error) == "record 'a', segment 2: broken"
    assert (error.record_id, error.segment, error.reason) == ("a", 2, "broken")


def test_holes_are_filled_in_order():
    record = Record(
        "r",
        (
            Segment("text", "user", text="hello"),
            Segment("text", "plan", tag="think", loss="text"),
            Segment("image", "image", loss="flow"),
        ),
    )
    assert record.holes == (1, 2)
    planned = record.filled(1, "a circle")
    assert planned.holes == (2,) and record.holes == (1, 2)
    assert planned.segments[1].content == "<think>a circle</think>"
    drawn = planned.filled(2, PIXELS)
    assert drawn.holes == () and drawn.segments[2].image is PIXELS
    with pytest.raises(ValueError, match="segment 'plan' has no text"):
        _ = record.segments[1].content


@pytest.mark.parametrize(
    ("text", "tag", "inside"),
    [
        ("<think> a b </think>", "think", "a b"),
        ("<think>a</think>", "sugg", "<think>a</think>"),
        ("<think>cut off", "think", "cut off"),
        (" plain ", None, "plain"),
        ("", "think", ""),
    ],
)
def test_untag(text, tag, inside):
    assert untag(text, tag) == inside


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ((0, 0, 0, 0), np.nan, "NaN"),
        ((1, 1, 1, 3), np.nan, "NaN"),
        ((0, 1, 0, 0), -np.inf, "infinity"),
        ((1, 0, 0, 0), np.inf, "infinity"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_moments_that_no_autoencoder_makes_are_named(place, value, told, dtype):
    moments = np.zeros((2, 2, 2, 4), serialization.DTYPES[dtype])
    moments[place] = value
    with pytest.raises(RecordError, match=rf"'r', segment 0: field 'moments' has {told}"):
        Record("r", (Segment("image", "draft", moments=moments, loss="flow"),))
    moments[place], moments[1] = 0, -np.inf  # no variance
    Record("r", (Segment("image", "draft", moments=moments, loss="flow"),))
