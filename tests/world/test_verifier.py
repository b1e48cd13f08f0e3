"""Verdicts: what passes, what fails and why, in both conventions, for pictures and for edits."""

import numpy as np
import pytest

from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import apply_edit
from unireason_jax.world.instructions import fall, mirror, random_objects
from unireason_jax.world.parser import Found
from unireason_jax.world.prompts import sample_prompt
from unireason_jax.world.renderer import render
from unireason_jax.world.repair import closest_scene, suggest
from unireason_jax.world.requirements import (
    RELATIONS,
    Relation,
    Requirement,
    Want,
    geneval_record,
    in_region,
    related,
    requirement_from_dict,
    requirement_of,
    sample_scene,
)
from unireason_jax.world.scenes import CELL, Object, cell_names, centre, make_scene
from unireason_jax.world.verifier import check, check_edit, check_geneval, check_image

RED = Object("circle", "red", "large", "b2")
BLUE = Object("square", "blue", "small", "b4")
LEFT = Requirement((Want("circle"), Want("square")), (Relation(0, "left of", 1),))


def test_exact_multisets_and_relations():
    assert check(LEFT, [RED, BLUE]).passed
    assert check(LEFT, [BLUE, RED]).passed
    mirrored = [RED._replace(cell="b4"), BLUE._replace(cell="b2")]
    assert check(LEFT, mirrored).reasons == ("circle not left of square",)
    assert check(LEFT, [RED]).reasons == ("missing square",)
    extra = check(LEFT, [RED, BLUE, RED._replace(cell="d1")])
    assert extra.reasons == ("extra large red circle",)
    assert not check(LEFT, [RED, BLUE._replace(shape="cross")]).passed


def test_diagonals_are_no_position():
    assert not check(LEFT, [RED, BLUE._replace(cell="d4")]).passed
    assert check(LEFT, [RED, BLUE._replace(cell="c4")]).passed


def test_assignment_looks_for_the_right_twin():
    requirement = Requirement((Want("circle"), Want("circle", "red")), (Relation(0, "above", 1),))
    blue = Object("circle", "blue", "small", "a2")
    assert check(requirement, [RED, blue]).passed
    assert not check(requirement, [RED, blue._replace(cell="c2")]).passed


def test_residual_is_a_reason_of_its_own():
    assert check(LEFT, [RED, BLUE], 0.06).passed
    assert check(LEFT, [RED, BLUE], 0.07).reasons == ("residual 0.070",)


def test_geneval_allows_extras_unless_excluded():
    three = [RED, RED._replace(cell="a1"), RED._replace(cell="d4")]
    two = {"tag": "counting", "include": [{"class": "circle", "count": 2}]}
    assert check_geneval(two, three).passed
    assert not check_geneval({**two, "exclude": [{"class": "circle", "count": 3}]}, three).passed
    record = geneval_record("position", "a circle left of a square", LEFT)
    assert record["include"][0] == {"class": "circle", "count": 1, "position": ["left of", 1]}
    assert check_geneval(record, [*three, BLUE]).passed
    assert not check_geneval(record, [BLUE]).passed
    counting = geneval_record("counting", "two circles", Requirement((Want("circle", count=2),)))
    assert counting["exclude"] == [{"class": "circle", "count": 3}]


def test_strict_passes_are_geneval_passes():
    for i in range(1000):
        dice = Dice(2, i, "geneval")
        prompt = sample_prompt(dice)
        scene = sample_scene(prompt.requirement, dice)
        record = geneval_record(prompt.tag, prompt.text, prompt.requirement)
        assert check(prompt.requirement, scene.objects).passed
        assert check_geneval(record, scene.objects).passed


@pytest.mark.parametrize("relation", RELATIONS)
def test_layouts_keep_a_margin_to_the_verifier(relation):
    """Every layout the generator may draw survives one pixel of error in each centre."""
    cells = [centre(cell) for cell in cell_names()]
    pairs = [(a, b) for a in cells for b in cells if a != b]
    true = [(a, b) for a, b in pairs if related(relation, a[0] - b[0], a[1] - b[1])]
    assert true
    for (y, x), (v, u) in true:
        for dy in (-2, 0, 2):
            for dx in (-2, 0, 2):
                assert related(relation, y - v + dy, x - u + dx)


def test_opposite_positions_exclude_each_other():
    rng = np.random.default_rng(0)
    for dy, dx in rng.uniform(-32, 32, (500, 2)):
        held = [r for r in RELATIONS[:4] if related(r, dy, dx)]
        assert len(held) <= 1
        assert related("left of", dy, dx) == related("right of", -dy, -dx)
    with pytest.raises(KeyError, match="unknown relation"):
        related("inside", 0, 0)


def test_regions():
    assert [c for c in cell_names() if in_region("corner", c)] == ["a1", "a4", "d1", "d4"]
    assert [c for c in cell_names(3) if in_region("middle", c, 3)] == ["b2"]
    assert [c for c in cell_names(3) if in_region("bottom", c, 3)] == ["c1", "c2", "c3"]
    with pytest.raises(KeyError, match="unknown region"):
        in_region("nowhere", "a1")


def test_requirements_survive_json():
    requirement = Requirement((Want("circle", count=2), Want("square", region="top")))
    assert requirement_from_dict(requirement.to_dict()) == requirement
    assert requirement_from_dict(LEFT.to_dict()) == LEFT


def test_parsed_objects_and_scene_objects_judge_alike():
    seen = [Found(*obj.look, *centre(obj.cell), 1.0) for obj in (RED, BLUE)]
    assert check(LEFT, seen).passed
    assert check(requirement_of(make_scene([RED, BLUE])), seen).passed


def test_edit_verdict_measures_what_was_disturbed():
    source, target = make_scene([RED, BLUE]), make_scene([RED])
    before, after = render(source), render(target)
    verdict = check_edit(requirement_of(target), source, target, before, after)
    assert verdict == (True, (), 0.0, 0.0)
    noisy = after.copy()
    noisy[-CELL:] += 10
    kept = check_edit(requirement_of(target), source, target, before, noisy)
    assert kept.passed
    assert kept.outside == pytest.approx(10 * 8 * 32 / (32 * 32 - 64), rel=1e-6)
    failed = check_edit(requirement_of(target), source, target, before, before)
    assert not failed.passed and failed.outside == 0
    with pytest.raises(ValueError, match="edited one"):
        check_edit(requirement_of(target), source, target, before, after[:24])


def test_an_open_edit_is_measured_at_the_place_it_took():
    source = make_scene([RED])
    anywhere = Requirement((Want(*RED), Want("square", "blue")))
    reference = make_scene([RED, BLUE])
    elsewhere = make_scene([RED, BLUE._replace(cell="d1")])
    verdict = check_edit(anywhere, source, reference, render(source), render(elsewhere))
    assert verdict.passed and verdict.outside == 0


def test_suggestions_repair_what_is_seen():
    """From any scene, the suggested edits lead to one that passes; none when nothing is wrong."""
    for i in range(800):
        dice = Dice(6, i, "suggest")
        requirement = sample_prompt(dice).requirement
        objects = random_objects(dice, dice.below(6))
        edits = suggest(requirement, objects)
        assert bool(edits) != check(requirement, objects).passed
        for edit in edits:
            objects = apply_edit(objects, edit)
        assert check(requirement, objects).passed, requirement


def test_suggestions_are_minimal_for_one_fault():
    for i in range(500):
        dice = Dice(8, i, "minimal")
        requirement = sample_prompt(dice).requirement
        scene = sample_scene(requirement, dice)
        cell = dice.pick(scene.objects).cell
        rest = [obj for obj in scene.objects if obj.cell != cell]
        assert len(suggest(requirement, rest)) == 1
        assert suggest(scene, scene.objects) == []


def test_many_objects_get_a_fresh_layout():
    objects = random_objects(Dice(0, 0, "crowd"), 9)
    scene = closest_scene(LEFT, objects)
    assert check(LEFT, scene.objects).passed


def test_rules_of_falling_and_mirrors():
    scene = make_scene([RED, RED._replace(cell="a2"), BLUE])
    assert [obj.cell for obj in fall(scene).objects] == ["c2", "d2", "d4"]
    assert [obj.cell for obj in mirror(scene).objects] == ["a3", "b1", "b3"]
    assert mirror(mirror(scene)) == scene
    assert check_image(requirement_of(fall(scene)), render(fall(scene))).passed
