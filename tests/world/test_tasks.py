"""Properties of every task: truth passes, faults fail, words are known, splits never meet."""

from collections import Counter

import numpy as np
import pytest

from unireason_jax.world import lessons, tasks
from unireason_jax.world.dice import Dice
from unireason_jax.world.drafts import FAULTS
from unireason_jax.world.edits import NO_CHANGE, apply_edit
from unireason_jax.world.instructions import RULES
from unireason_jax.world.language import parse_edit, parse_plan, parse_reflection
from unireason_jax.world.prompts import TAGS, UNSEEN_COUNT_TAG
from unireason_jax.world.renderer import render
from unireason_jax.world.scenes import (
    HELD_OUT_PAIRS,
    Scene,
    has_held_out_pair,
    is_held_out_prompt,
    make_scene,
)
from unireason_jax.world.steps import COMPLETE, CONFLICT, CONTINUE
from unireason_jax.world.verifier import check, check_edit, check_image
from unireason_jax.world.vocabulary import WORDS

FAST, SLOW = 1000, 10_000
COUNTS = [FAST, pytest.param(SLOW, marks=pytest.mark.drill)]
REQUEST_KEYS = ("prompt", "instruction", "question")
T2I = ("t2i", "think_t2i", "knowledge", "think_knowledge")
EDITS = ("edit", "think_edit", "uni_edit")
REFINE = ("refine_t2i", "refine_knowledge", "refine_edit")
LESSONS = (*lessons.IRG, "process_conflict", "process_alignment")


def request_of(raw):
    """The text that the hold-out is decided on."""
    if raw.get("tag") == "describe":
        return raw["answer"]
    return raw[next(key for key in REQUEST_KEYS if key in raw)]


def texts_of(raw):
    """Yield (limit in words, text) for every text a model reads or writes."""
    limits = {"prompt": 16, "instruction": 16, "question": 16, "think": 38, "explanation": 38}
    limits |= dict.fromkeys(("final_reflection", "improve", "refine"), 56)
    single = ("answer", "hint", "wrong_think", "inspect")
    for key in (*limits, *single):
        if raw.get(key) is not None:
            yield limits.get(key, 40), raw[key]
    for step in raw.get("rounds", ()):
        yield 56, step["reflection"]
    for step in raw.get("steps", ()):
        for key in ("ins", "des", "inspect", "refine"):
            if step[key] is not None:
                yield limits.get(key, 38), step[key]


def scenes_of(raw):
    """Yield every scene an example shows."""
    for part in (raw, *raw.get("rounds", ()), *raw.get("steps", ())):
        yield from (value for value in part.values() if isinstance(value, Scene))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", T2I)
def test_true_pictures_pass_their_verifier(task, count):
    for i in range(count):
        raw = tasks.example(1, i, task)
        verdict = check_image(raw["requirement"], raw["image"])
        assert verdict.passed and verdict.residual == 0, (raw["prompt"], verdict)
        if raw["think"]:
            assert parse_plan(raw["think"]).objects == raw["scene"].objects


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", EDITS)
def test_true_edits_pass_and_disturb_nothing(task, count):
    for i in range(count):
        raw = tasks.example(1, i, task)
        before = raw["image"] if task == "uni_edit" else raw["input_image"]
        requirement, source, target = raw["requirement"], raw["source"], raw["scene"]
        verdict = check_edit(requirement, source, target, before, raw["output_image"])
        assert verdict == (True, (), 0.0, 0.0), raw["instruction"]
        if target != source:
            assert not check(requirement, source.objects).passed, raw["instruction"]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("task", REFINE)
def test_faults_are_rejected_and_reflections_repair_them(task, count):
    kinds, numbers = Counter(), Counter()
    for i in range(count):
        raw = tasks.example(1, i, task)
        requirement, rounds = raw["requirement"], raw["rounds"]
        numbers[len(raw["faults"])] += 1
        kinds.update(raw["faults"])
        assert len(rounds) <= len(raw["faults"])
        assert parse_reflection(raw["final_reflection"]) == (raw["scene"].objects, NO_CHANGE)
        assert check_image(requirement, raw["draft"]).passed == (not raw["faults"])
        objects, image = raw["draft_scene"].objects, raw["draft"]
        for number, step in enumerate(rounds):
            seen, edit = parse_reflection(step["reflection"])
            assert seen == objects
            objects = apply_edit(objects, edit)
            assert objects == step["scene"].objects
            changed = (image != step["image"]).any(-1)
            cells = changed.reshape(4, 8, 4, 8).any((1, 3)).sum()
            assert 1 <= cells <= 1 + bool(edit.to)
            image = step["image"]
            passed = check_image(requirement, image).passed
            assert passed == (number == len(rounds) - 1)
        assert objects == raw["scene"].objects
    assert abs(numbers[0] / count - 0.5) < 0.05 and 0.15 < numbers[2] / count < 0.3
    wanted = FAULTS if task == "refine_t2i" else FAULTS[:-1]
    assert all(kinds[kind] > 0.01 * count for kind in wanted), kinds


@pytest.mark.parametrize("count", COUNTS)
def test_steps_build_the_scene_and_conflicts_are_repaired(count):
    verdicts, ops = Counter(), Counter()
    for i in range(count):
        raw = tasks.example(1, i, "process")
        assert 2 <= len(raw["steps"]) <= 4
        objects = ()
        for step in raw["steps"]:
            edit = parse_edit(step["ins"])
            objects = apply_edit(objects, edit)
            ops[edit.op] += 1
            verdicts[step["inspect"]] += 1
            assert parse_plan(step["des"]).objects == objects
            assert (step["inspect"] == CONFLICT) == (step["scene"].objects != objects)
            last = step["image"]
            if step["refine"] is not None:
                seen, repair = parse_reflection(step["refine"])
                assert seen == step["scene"].objects and apply_edit(seen, repair) == objects
                last = step["refined"]
        assert step["inspect"] in (COMPLETE, CONFLICT)
        assert check_image(raw["requirement"], last).passed
        assert objects == raw["scene"].objects
    assert set(verdicts) == {CONTINUE, COMPLETE, CONFLICT}
    assert min(ops[op] for op in ("change", "remove", "swap")) > 0.005 * count


@pytest.mark.parametrize("task", LESSONS)
def test_lessons_are_told_truly(task):
    """The right picture passes, the wrong one fails, and the words lead from one to the other."""
    wrong = 0
    for i in range(200):
        raw = tasks.example(1, i, task)
        step = raw["steps"][-1] if task == "process_conflict" else raw
        words, after = step.get("improve", step.get("refine")), step.get("improved")
        after = step.get("refined") if after is None else after
        before = raw.get("draft_scene", step["scene"]).objects
        if words is None:
            assert "initial" in task or step["inspect"] in (COMPLETE, CONTINUE)
            if "initial" in task:
                assert check_image(raw["requirement"], raw["image"]).passed
            continue
        wrong += 1
        if task != "process_conflict":
            assert not check_image(raw["requirement"], raw["image"]).passed
        seen, repair = parse_reflection(words)
        assert seen == before
        repaired = apply_edit(before, repair)
        np.testing.assert_array_equal(render(make_scene(repaired, raw["scene"].side)), after)
    assert wrong == 0 if "initial" in task else wrong > 30


@pytest.mark.parametrize("task", tasks.TASKS)
def test_texts_are_short_and_their_words_known(task):
    vocabulary = set(WORDS)
    for i in range(600):
        for limit, text in texts_of(tasks.example(7, i, task, render=False)):
            words = text.split()
            assert " ".join(words) == text and 0 < len(words) <= limit, text
            assert not set(words) - vocabulary, set(words) - vocabulary


def test_no_word_of_the_vocabulary_is_dead():
    used = set()
    for task in set(tasks.TASKS) - set(LESSONS):
        for i in range(3000):
            for _, text in texts_of(tasks.example(7, i, task, render=False)):
                used.update(text.split())
    for i in range(20):
        used.update(tasks.example(7, i, "t2i", tag=UNSEEN_COUNT_TAG)["prompt"].split())
    assert not set(WORDS) - used


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_same_seed_and_index_give_the_same_example(task):
    for i in (0, 5, 2**40):
        one, two = tasks.example(3, i, task), tasks.example(3, i, task)
        assert repr(one) == repr(two)
        assert repr(tasks.example(4, i, task)) != repr(one)
        undrawn = tasks.example(3, i, task, render=False)
        assert request_of(undrawn) == request_of(one) and undrawn.keys() == one.keys()
        for key, value in one.items():
            if isinstance(value, np.ndarray):
                assert undrawn[key].shape == value.shape and undrawn[key].dtype == value.dtype


@pytest.mark.parametrize("task", tasks.TASKS)
def test_splits_never_meet(task):
    for i in range(400):
        train = tasks.example(1, i, task, render=False)
        held = tasks.example(1, i, task, held_out=True, render=False)
        assert not is_held_out_prompt(request_of(train))
        assert is_held_out_prompt(request_of(held))
        for raw in (train, held):
            assert not any(has_held_out_pair(scene.objects) for scene in scenes_of(raw))


def test_edits_by_rule_are_asked_for_in_the_words_of_the_training():
    for op in RULES:
        with pytest.raises(ValueError, match=f"'{op}' has no held-out instruction"):
            tasks.example(1, 0, "edit", tag=op, held_out=True)
    assert not {tasks.example(1, i, "edit", held_out=True)["op"] for i in range(200)} & set(RULES)
    asked = [tasks.example(1, i, "edit", tag="mirror")["instruction"] for i in range(20)]
    assert set(asked) == {"swap left and right"}


@pytest.mark.parametrize("task", ["t2i", "think_t2i", "refine_t2i"])
def test_unseen_pairs_are_in_every_prompt(task):
    for i in range(300):
        raw = tasks.example(1, i, task, unseen_pairs=True)
        wants = raw["requirement"].wants
        assert any((want.shape, want.color) in HELD_OUT_PAIRS for want in wants)
        assert check_image(raw["requirement"], render(raw["scene"])).passed


@pytest.mark.parametrize("tag", [*TAGS, UNSEEN_COUNT_TAG])
def test_every_tag_has_held_out_prompts(tag):
    prompts = {tasks.example(0, i, "t2i", tag=tag, held_out=True)["prompt"] for i in range(60)}
    assert len(prompts) >= 4


def test_answers_are_true_and_never_in_the_instruction():
    kinds, answers = Counter(), Counter()
    for i in range(3000):
        raw = tasks.example(1, i, "uni_edit", render=False)
        assert raw["answer"] not in raw["instruction"].split()
        kinds[raw["op"]] += 1
        question = tasks.example(1, i, "vqa", render=False)
        if question["tag"] == "describe":
            seen, _ = parse_reflection(f"{question['answer']} , no change")
            assert seen == question["scene"].objects
        answers[question["tag"], question["answer"]] += 1
    assert min(kinds.values()) > 300 and len(kinds) == 4
    for kind in ("exist", "compare", "relate"):
        share = answers[kind, "yes"] / (answers[kind, "yes"] + answers[kind, "no"])
        assert 0.3 < share < 0.75, (kind, share)


def test_count_answers_count():
    names = ("zero", "one", "two", "three", "four")
    seen = 0
    for i in range(1000):
        raw = tasks.example(2, i, "vqa", tag="count", render=False)
        word = raw["question"].split()[2]
        shapes = {"circles": "circle", "squares": "square"}
        if word in shapes:
            number = sum(obj.shape == shapes[word] for obj in raw["scene"].objects)
            assert raw["answer"] == names[number]
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_small_grid_works(task):
    for i in range(50):
        raw = tasks.example(1, i, task, side=3)
        images = [v for v in raw.values() if isinstance(v, np.ndarray)]
        assert all(image.shape == (24, 24, 3) for image in images)
        if "requirement" in raw:
            assert check(raw["requirement"], raw["scene"].objects, side=3).passed


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match="unknown world task 't2v'"):
        tasks.example(0, 0, "t2v")
    with pytest.raises(ValueError, match="unseen_pairs"):
        tasks.example(0, 0, "edit", unseen_pairs=True)
    for task in ("t2i", "edit", "knowledge", "uni_edit"):
        with pytest.raises(ValueError, match="unknown"):
            tasks.example(0, 0, task, tag="nothing")
    with pytest.raises(ValueError, match="must lie in"):
        Dice(-1, 0)
