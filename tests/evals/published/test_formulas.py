"""Every aggregator on cases computed by hand, and every reader on answers good and bad."""

import math
import pickle

import numpy as np
import pytest
from PIL import Image

from unireason_jax.evals.published import (
    SUITES,
    base,
    dpg,
    gedit,
    geneval,
    imgedit,
    kris,
    tiif,
    uniredit,
    wise,
)
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored


def image(raw, scores, name="1", place="x.png"):
    return Scored(Item(name, "p", (), raw), place, {step: s for step, s in scores.items()})


def question(step, raw=None):
    return Question("k", step, "w", (), Item("1", "p", (), raw or {}))


def wise_image(number, consistency, realism, beauty):
    scores = {"Consistency": consistency, "Realism": realism, "Aesthetic Quality": beauty}
    return image({}, {"wise": scores}, name=str(number))


def test_wise_legacy_has_two_overall_numbers():
    # one image in each category; (0.7 c + 0.2 r + 0.1 a) / 2
    cases = {1: (2, 2, 2), 401: (2, 0, 0), 568: (0, 2, 0), 701: (0, 0, 2), 801: (1, 1, 1)}
    scored = [wise_image(n, *s) for n, s in (cases | {901: (0, 0, 0)}).items()]
    by_hand = {"CULTURE": 1.0, "TIME": 0.7, "SPACE": 0.2, "BIOLOGY": 0.1, "PHYSICS": 0.5}
    found = wise.aggregate(scored)
    for name, value in (by_hand | {"CHEMISTRY": 0.0}).items():
        assert found[name] == pytest.approx(value)
    official = 0.4 * 1 + 0.167 * 0.7 + 0.133 * 0.2 + 0.1 * (0.1 + 0.5 + 0)
    assert found["overall, official weights"] == pytest.approx(official)
    assert found["overall, mean of categories"] == pytest.approx(2.5 / 6)
    # a category without an image: no official number, rather than a wrong one
    assert "overall, official weights" not in wise.aggregate(scored[:3])


def test_wise_published_row_of_bagel_with_plan():
    # the famous 0.70 is the plain mean of the published categories; the official weights give 0.72
    row = {"CULTURE": 0.76, "TIME": 0.69, "SPACE": 0.75, "BIOLOGY": 0.65, "PHYSICS": 0.75}
    row |= {"CHEMISTRY": 0.58}
    official = sum(wise.WEIGHTS[name] * value for name, value in row.items())
    assert official == pytest.approx(0.717, abs=5e-4)
    assert sum(row.values()) / 6 == pytest.approx(0.697, abs=5e-4)
    assert sum(wise.WEIGHTS.values()) == pytest.approx(1.0)


def test_wise_verified_is_the_mean_of_items_and_has_its_own_ranges():
    scored = [
        image({}, {"verified": {"score": s}}, name=str(n)) for n, s in ((1, 1), (2, 0), (450, 1))
    ]
    found = wise.aggregate_verified(scored)
    assert found == {"overall": pytest.approx(2 / 3), "CULTURE": 0.5, "TIME": 1.0}
    assert wise.category(scored[2].item, wise.VERIFIED) == "TIME"
    assert wise.category(Item("530", "p", (), {})) == "TIME"
    assert wise.category(Item("530", "p", (), {}), wise.VERIFIED) == "SPACE"


def kris_image(kind, **scores):
    return image({"type": kind}, {"all": {f"{k}_score": v for k, v in scores.items()}})


def test_kris_conventions_differ_where_the_number_of_scores_does():
    scored = [
        kris_image("color_change", consistency=5, quality=5, instruction=5),  # 100
        kris_image("physics", consistency=1, quality=3, instruction=5, knowledge=5),  # 62.5
        kris_image("multi-instruction_execution", consistency=2, quality=2, instruction=2),  # 25
        kris_image(
            "abstract_reasoning", consistency=5, quality=5, instruction=1, knowledge=1
        ),  # 50
    ]
    found = kris.aggregate(scored)
    assert found["overall, mean of samples"] == pytest.approx((100 + 62.5 + 25 + 50) / 4)
    flat = (300 + (0 + 50 + 100 + 100) + 75 + (100 + 100)) / 14
    assert found["overall, mean of scores"] == pytest.approx(flat)
    assert found["Factual, mean of samples"] == 100 and found["Conceptual, mean of samples"] == 62.5
    assert found["Procedural, mean of samples"] == pytest.approx(37.5)
    assert found["Procedural, mean of scores"] == pytest.approx((75 + 200) / 7)
    assert len(kris.DIMENSION) == 20


def test_uniredit_weights_and_accuracy():
    def made(c, r, q, name):
        return image({"name": name}, {"all": {"consistency": c, "reasoning": r, "quality": q}})

    found = uniredit.aggregate([made(5, 5, 5, "a"), made(1, 3, 5, "b")])
    assert found["a"] == 100 and found["b"] == pytest.approx(25 * (0.3 + 1.5 + 1.0 - 1))
    assert found["overall"] == pytest.approx((100 + 45) / 2)
    assert found["accuracy"] == 50 and found["b, accuracy"] == 0


def test_gedit_takes_the_root_per_image_and_the_mean_of_tasks():
    def made(semantics, quality, task, shared=True):
        raw = {"task_type": task, "instruction_language": "en", "Intersection_exist": shared}
        return image(raw, {"all": {"semantics": semantics, "quality": quality}})

    found = gedit.aggregate([made(9, 4, "a"), made(1, 4, "a", False), made(0, 10, "b")])
    assert found["O, en"] == pytest.approx(((6 + 2) / 2 + 0) / 2)
    assert found["SC, en"] == pytest.approx((5 + 0) / 2)
    assert found["PQ, en"] == pytest.approx((4 + 10) / 2)
    assert found["O, en, intersection"] == pytest.approx((6 + 0) / 2)
    assert found["O, en"] < math.sqrt(found["SC, en"] * found["PQ, en"])


def test_imgedit_rounds_items_and_gives_both_means():
    def made(scores, kind):
        return image({"edit_type": kind}, {"rating": dict(zip(imgedit.NAMES, scores))})

    scored = [made((5, 5, 4), "add"), made((1, 1, 2), "add"), made((3, 3, 3), "style")]
    found = imgedit.aggregate(scored)
    assert found["add"] == pytest.approx((4.67 + 1.33) / 2)
    assert found["overall, mean of types"] == pytest.approx((3.0 + 3.0) / 2)
    assert found["overall, mean of items"] == pytest.approx((4.67 + 1.33 + 3) / 3)


def test_tiif_questions_types_groups():
    def made(given, kind, length, group):
        raw = {"type": kind, "_length": length, "group": group}
        raw |= {"yn_answer_list": ["yes", "no"], "yn_question_list": ["a", "b"]}
        return image(raw, {"answers": {str(n): v for n, v in enumerate(given)}})

    scored = [
        made((1, 0), "color", "short", "Attribute"),  # 2 of 2
        made((1, 1), "color", "short", "Attribute"),  # 1 of 2
        made((0, 1), "texture", "short", "Attribute"),  # 0 of 2
        made((1, 0), "style", "short", "style"),
        made((0, 0), "style", "long", "style"),
    ]
    found = tiif.aggregate(scored)
    assert found["short, color"] == 75 and found["short, group Attribute"] == pytest.approx(37.5)
    assert found["overall, short"] == pytest.approx((37.5 + 100) / 2)
    assert found["overall, long"] == 50


def test_dpg_dependencies_go_down_chains_and_the_first_question_is_passed_over():
    asked = [
        {"id": 1, "parents": [], "category": "entity", "skipped": True},
        {"id": 2, "parents": [1], "category": "attribute", "skipped": False},
        {"id": 3, "parents": [2], "category": "relation", "skipped": False},
    ]
    answers = {f"{crop}/{n}": 1.0 for crop in range(4) for n in (1, 2, 3)}
    answers |= {"0/1": 0.0, "3/2": 0.0}
    item = Item("a", "p", (), {"questions": asked})
    scored = [Scored(item, "a.png", {"all": answers})]
    found = dpg.aggregate(scored)
    # crop 0: 0, 0, 0; crops 1 and 2: 1; crop 3: 1, 0, 0
    assert found["overall, all questions"] == pytest.approx(100 * (0 + 1 + 1 + 1 / 3) / 4)
    # without question 1: crop 0: 1, 1; crop 3: 0, 0
    assert found["overall, official"] == pytest.approx(100 * (1 + 1 + 1 + 0) / 4)
    assert (found["entity"], found["attribute"], found["relation"]) == (100, 0, 100)


def seen(name, box, score=0.95, color=None):
    return {"class": name, "box": box, "score": score, "color": color}


def test_geneval_counts_colours_positions_and_exclusions():
    left, right = [0, 40, 20, 60], [70, 40, 90, 60]
    cat, dog = seen("cat", left, color="red"), seen("dog", right)
    position = {"tag": "position", "include": [{"class": "dog", "count": 1}]}
    position["include"].append({"class": "cat", "count": 1, "position": ["left of", 0]})
    assert geneval.verdict(position, [cat, dog])
    assert not geneval.verdict(position, [{**cat, "box": right}, {**dog, "box": left}])
    assert not geneval.verdict(position, [cat])
    color = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
    assert geneval.verdict(color, [cat])
    # the surest box counts: a surer blue cat makes it wrong
    assert not geneval.verdict(color, [cat, seen("cat", right, 0.99, "blue")])
    count = {"tag": "counting", "include": [{"class": "cat", "count": 2}]}
    count["exclude"] = [{"class": "cat", "count": 3}]
    assert geneval.verdict(count, [cat, cat]) and not geneval.verdict(count, [cat] * 3)
    assert not geneval.verdict(count, [cat, seen("cat", right, 0.85)])  # 0.9 is needed for counting
    assert geneval.verdict({**count, "tag": "two_object"}, [cat, seen("cat", right, 0.85)])


def test_geneval_relations_have_a_dead_zone_and_diagonals():
    box = [0, 0, 10, 10]
    assert geneval.relations(box, [1.5, 0, 11.5, 10]) == set()  # nearer than 0.1 (10 + 10)
    assert geneval.relations(box, [30, 0, 40, 10]) == {"left of"}
    assert geneval.relations(box, [30, 30, 40, 40]) == {"left of", "above"}
    assert geneval.relations([30, 4, 40, 14], box) == {"right of"}


def test_geneval_means_over_tags_not_images():
    scored = [
        image({"tag": "a"}, {"objects": {"correct": c}}, name=str(n))
        for n, c in enumerate((1, 1, 0, 0))
    ]
    scored.append(image({"tag": "b"}, {"objects": {"correct": 1}}, name="0"))
    found = geneval.aggregate(scored)
    assert found["overall, mean of tags"] == 0.75 and found["right images"] == 0.6
    assert found["prompts with all images right"] == 0.5


GOOD = [
    ("wise_legacy", "wise", "Consistency: 2\nRealism: 1\nAesthetic Quality: 0", None),
    (
        "wise_legacy",
        "wise",
        "<think>Realism: 0</think>**Consistency:** 2\nRealism: 1\nAesthetic quality: 0",
        None,
    ),
    ("wise", "verified", "**Score: 1**", {"score": 1}),
    (
        "kris",
        "quality",
        '```json\n{"quality_score": 4, "reasoning": "x",}\n```',
        {"quality_score": 4},
    ),
    ("kris", "quality", "quality_score: 4", {"quality_score": 4}),
    ("uniredit", "reasoning", "so 3/5.\n**Final Score:** **4**", {"reasoning": 4}),
    ("gedit", "quality", 'Well: {"score": [7, 9]}', {"quality": 7}),
    ("imgedit", "rating", "Fine.\nA: 5\nB: 4/5\nC: 3", dict(zip(imgedit.NAMES, (5, 4, 3)))),
    ("dpg", "0/1", "Yes, it is.", {"0/1": 1}),
    ("tiif", "answers", "1. Yes, it is\n- no", {"0": 1, "1": 0}),
]
BAD = [
    ("wise_legacy", "wise", "Consistency: 2\nRealism: 1"),
    ("wise_legacy", "wise", "Consistency: 3\nRealism: 1\nAesthetic Quality: 0"),
    ("wise", "verified", "I think it is good."),
    ("kris", "dual", '{"instruction_score": 4}'),
    ("kris", "quality", '{"quality_score": 7}'),
    ("uniredit", "reasoning", "4"),
    ("gedit", "semantics", '{"score": [7]}'),
    ("gedit", "semantics", '{"score": "high"}'),
    ("imgedit", "rating", "A: 5\nB: 4"),
    ("dpg", "0/1", "maybe"),
    ("tiif", "answers", "yes\nno\nyes"),
    ("tiif", "answers", "yes\nperhaps"),
    ("geneval", "objects", '[{"class": "cat"}]'),
    ("geneval", "objects", "nothing"),
]
RAW = {"yn_question_list": ["a", "b"], "include": [{"class": "cat", "count": 1}], "tag": "x"}


@pytest.mark.parametrize(("suite", "step", "answer", "scores"), GOOD)
def test_answers_are_read(suite, step, answer, scores):
    expected = scores or {"Consistency": 2, "Realism": 1, "Aesthetic Quality": 0}
    assert SUITES[suite].read(question(step, RAW), answer) == expected


@pytest.mark.parametrize(("suite", "step", "answer"), BAD)
def test_an_answer_without_scores_is_malformed_and_not_zero(suite, step, answer):
    with pytest.raises(Malformed):
        SUITES[suite].read(question(step, RAW), answer)


def test_pictures_of_a_grid_are_read_when_they_are_looked_at(tmp_path):
    """A question holds no pixels, so their number does not grow with that of the images."""
    quarters = np.arange(1, 5, dtype=np.uint8).reshape(2, 2)
    grid = np.repeat(np.kron(quarters, np.ones((60, 60), np.uint8))[..., None], 3, axis=-1)
    Image.fromarray(grid).save(tmp_path / "i.png")
    asked = {"id": 1, "parents": [], "words": "red ?", "category": "c", "skipped": False}
    item = Item("i", "p", (), {"questions": [asked]})
    found = dpg.questions(item, "i.png", tmp_path / "i.png", dpg.RUBRICS)
    assert len(pickle.dumps(found)) < 4000
    for number, question in enumerate(found, 1):
        picture = base.pixels(question.pictures[0])
        assert picture.shape == (60, 60, 3) and (picture == number).all()
    assert base.pixels(tmp_path / "i.png").shape == (120, 120, 3)
