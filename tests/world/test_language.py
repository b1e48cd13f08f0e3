"""Plans, reflections and the vocabulary: written, read back, and closed."""

import pytest

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import NO_CHANGE, Edit, apply_edit, diff
from unireason_jax.world.instructions import random_objects
from unireason_jax.world.language import (
    edit_text,
    parse_edit,
    parse_plan,
    parse_reflection,
    phrase,
    plan_text,
    reflection_text,
    tagged,
    untagged,
)
from unireason_jax.world.requirements import Want
from unireason_jax.world.scenes import Object
from unireason_jax.world.vocabulary import MAX_VOCABULARY, TAGS, VOCABULARY, WORDS

RED = Object("circle", "red", "large", "b2")
BLUE = Object("square", "blue", "small", "c4")


def test_the_plan_of_the_specification():
    text = plan_text([BLUE, RED], "mars is red")
    assert text == "mars is red , circle red large b2 , square blue small c4"
    assert parse_plan(tagged("think", text)) == ("mars is red", (RED, BLUE))
    assert parse_plan(plan_text([RED])).fact == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("circle red large b2 , nonsense here", "nonsense"),
        ("circle red large b2 , square blue small b2", "one cell"),
    ],
)
def test_broken_plans_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_plan(text)
    assert parse_plan("circle red large z9").objects == ()


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (
            Edit("change", "b2", "", "square", "blue"),
            "change the red circle at b2 to a blue square",
        ),
        (
            Edit("change", "b2", "", "circle", "red", "small"),
            "change the red circle at b2 to a small red circle",
        ),
        (Edit("add", "a1", "", "cross", "orange", "small"), "add a small orange cross at a1"),
        (Edit("remove", "b2"), "remove the red circle at b2"),
        (Edit("move", "b2", "c3"), "move the red circle at b2 to c3"),
        (Edit("swap", "b2", "c4"), "swap the red circle at b2 and the blue square at c4"),
        (NO_CHANGE, "no change"),
    ],
)
def test_edits_of_the_specification(edit, text):
    assert edit_text(edit, [RED, BLUE]) == text
    assert parse_edit(tagged("sugg", text)) == edit
    assert len(text.split()) <= 16
    said = f"circle red large b2 , square blue small c4 , {text}"
    assert reflection_text(edit, [BLUE, RED]) == said
    assert parse_reflection(tagged("sugg", said)) == ((RED, BLUE), edit)


def test_an_empty_picture_holds_nothing():
    edit = Edit("add", "a1", "", "cross", "orange", "small")
    assert reflection_text(edit, []) == "nothing , add a small orange cross at a1"
    assert parse_reflection(reflection_text(edit, [])) == ((), edit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "paint it red",
        "add a red circle",
        "add a red circle at e9",
        "remove the circle at b2",
        "move the red circle at b2 to c3 now",
        "change the red circle at b2 into a blue square",
    ],
)
def test_edits_outside_the_grammar_are_refused(text):
    with pytest.raises(ValueError, match="edit"):
        parse_edit(text)
    with pytest.raises(ValueError):
        parse_reflection(f"circle red large b2 , {text}")


@pytest.mark.parametrize("text", ["no change", "a red thing , no change", "nothing no change"])
def test_reflections_start_with_what_is_seen(text):
    with pytest.raises(ValueError, match="reflection"):
        parse_reflection(text)


def test_articles_numbers_and_tags():
    assert phrase(Want("circle", "orange")) == "an orange circle"
    assert phrase(Want("cross", "red", "small", None, 3)) == "three small red crosses"
    assert phrase(Want(None, "red")) == "a red object"
    assert untagged("<|im_start|> <sugg> no change </sugg>") == "no change"


def test_edits_are_checked_against_the_scene():
    with pytest.raises(ValueError, match="taken"):
        apply_edit([RED], Edit("add", "b2", "", "cross", "red"))
    with pytest.raises(ValueError, match="empty"):
        apply_edit([RED], Edit("remove", "a1"))
    with pytest.raises(ValueError, match="occupancy"):
        apply_edit([RED, BLUE], Edit("move", "b2", "c4"))
    with pytest.raises(ValueError, match="unknown edit"):
        apply_edit([RED], Edit("paint", "b2"))


def test_diff_through_text_leads_to_the_target():
    for i in range(2000):
        dice = Dice(4, i, "diff")
        target = random_objects(dice, 1 + dice.below(5))
        objects = random_objects(dice, 1 + dice.below(5))
        edits = diff(target, objects)
        assert len(edits) <= len(set(target) ^ set(objects))
        for edit in edits:
            objects = apply_edit(objects, parse_edit(edit_text(edit, objects)))
        assert objects == target


def test_one_edit_apart_is_one_edit():
    swapped = (RED._replace(cell="c4"), BLUE._replace(cell="b2"))
    assert diff([RED, BLUE], swapped) == [Edit("swap", "b2", "c4")]
    assert diff([RED, BLUE], [RED._replace(cell="a1"), BLUE]) == [Edit("move", "a1", "b2")]
    assert diff([RED, BLUE], [RED, BLUE._replace(size="large")]) == [
        Edit("change", "c4", "", "square", "blue", "small")
    ]
    assert diff([RED], [RED]) == []


def test_the_vocabulary_is_small_and_has_no_duplicates():
    assert len(VOCABULARY) <= MAX_VOCABULARY - 8
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    assert len(TAGS) == 10 and "<think>" in TAGS and "</refine>" in TAGS
    assert all(word == word.lower() and " " not in word for word in WORDS)
