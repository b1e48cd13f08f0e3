"""Knowledge facts: five domains, exact targets, unambiguous prompts, controls."""

from collections import Counter

import pytest

from unireason_jax.world.dice import Dice
from unireason_jax.world.knowledge import (
    DOMAINS,
    all_facts,
    items,
    sample_item,
    wise_record,
    wrong_think,
)
from unireason_jax.world.language import parse_plan, plan_text
from unireason_jax.world.requirements import names_held_out_pair, sample_scene
from unireason_jax.world.tasks import example
from unireason_jax.world.verifier import check
from unireason_jax.world.vocabulary import WORDS


def fact_of(prompt):
    return next(fact for fact in all_facts() if prompt in fact.prompts)


@pytest.mark.parametrize("side", [3, 4])
def test_every_fact_has_a_scene_that_passes(side):
    for i, fact in enumerate(all_facts(side)):
        for k in range(3):
            scene = sample_scene(fact.requirement, Dice(k, i, "facts"), side)
            assert check(fact.requirement, scene.objects, side=side).passed, fact
        assert not names_held_out_pair(fact.requirement)


def test_there_are_about_four_hundred_facts_in_five_domains():
    counts = Counter(fact.domain for fact in all_facts())
    assert set(counts) == set(DOMAINS) and len(DOMAINS) == 5
    assert 400 <= sum(counts.values()) <= 520 and min(counts.values()) >= 60


@pytest.mark.parametrize("side", [3, 4])
def test_a_prompt_has_one_meaning(side):
    meaning = {}
    for fact in all_facts(side):
        for prompt in fact.prompts:
            assert meaning.setdefault(prompt, fact.requirement) == fact.requirement, prompt


def test_texts_are_short_and_known():
    for fact in all_facts():
        assert len(fact.fact.split()) <= 14, fact.fact
        assert all(len(prompt.split()) <= 16 for prompt in fact.prompts)
        words = {word for text in (*fact.prompts, fact.explanation) for word in text.split()}
        assert not words - set(WORDS)
        scene = sample_scene(fact.requirement, Dice(0, 0, "texts"))
        assert len(plan_text(scene.objects, fact.fact).split()) <= 38


@pytest.mark.parametrize(
    ("prompt", "hint"),
    [
        ("the flag of italy", "a green square left of a white square left of a red square"),
        ("the planet mars", "a large red circle"),
        ("a square with the color of red and green light", "a yellow square"),
        ("the hour on a clock three hours after nine", "a small white circle at the top"),
        ("the mirror of a blue triangle at a1", None),
        ("two plus one circles", "three circles"),
        ("draw the odd one of circle circle square", "a square"),
        ("the stop light after green", "a yellow circle"),
        ("complete the row of three crosses with b2 and b4", None),
    ],
)
def test_some_facts_by_hand(prompt, hint):
    if hint is not None:
        assert fact_of(prompt).hint == hint
    elif "mirror" in prompt:
        mirrors = [f for f in all_facts() if f.subcategory == "mirrors" and "at a1" in f.prompts[0]]
        assert [fact.requirement.wants[0].region for fact in mirrors] == ["a4"]
    else:
        assert [want.region for want in fact_of(prompt).requirement.wants] == ["b2", "b3", "b4"]


def test_items_split_without_overlap_and_fill_every_domain():
    for domain in DOMAINS:
        train, held = items(domain), items(domain, held_out=True)
        assert not {item.prompt for item in train} & {item.prompt for item in held}
        assert len(held) >= 15 and len(train) > 5 * len(held)
    with pytest.raises(ValueError, match="unknown knowledge domain"):
        items("history")


def test_wise_records_have_the_benchmark_keys():
    record = wise_record(items("cultural")[0], 1)
    assert list(record) == [
        "Prompt",
        "Explanation",
        "Category",
        "Subcategory",
        "prompt_id",
        "Hint",
    ]
    assert record["Explanation"].endswith(record["Hint"])


def test_wrong_thinks_ask_for_something_else():
    differ = 0
    for i in range(600):
        dice = Dice(1, i, "wrong")
        item = sample_item(dice, domain=None, held_out=False)
        text, requirement = wrong_think(dice, item)
        own = all_facts()[item.fact].requirement
        objects = parse_plan(text).objects
        assert requirement != own and check(requirement, objects).passed
        differ += not check(own, objects).passed
    assert differ > 0.95 * 600


def test_examples_carry_the_controls():
    raw = example(0, 4, "think_knowledge")
    assert raw["task"] == "t2i" and raw["domain"] in DOMAINS
    assert raw["explanation"].endswith(raw["hint"])
    assert raw["wrong_think"] != raw["think"]
    assert example(0, 4, "knowledge", tag="logical")["domain"] == "logical"
    assert example(0, 4, "knowledge")["think"] is None
