"""What the world says at every stage of the recipes, as JSON-able answers."""

from collections.abc import Callable
from typing import Any

from unireason_jax.synthesis.world_models import Question, WorldModels
from unireason_jax.world.dice import Dice
from unireason_jax.world.edits import NO_CHANGE, diff
from unireason_jax.world.language import (
    edit_text,
    parse_plan,
    plan_text,
    reflection_text,
    seen_text,
)
from unireason_jax.world.requirements import sample_scene
from unireason_jax.world.scenes import make_scene
from unireason_jax.world.steps import sample_steps
from unireason_jax.world.tasks import Example

Says = dict[str, Any]
_AXES = ("object_presence", "attribute_accuracy", "style_consistency", "realism", "aesthetics")


def _raw(world: WorldModels, asked: Question) -> Example:
    return world.truth(asked.request, asked.pictures)


def _plan(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    if "instruction" in raw:  # the picture that has to come out
        return {"reasoning": plan_text(raw["scene"].objects)}
    scene = sample_scene(raw["requirement"], Dice(asked.lot.getrandbits(31), 0), world.side)
    return {"reasoning": plan_text(scene.objects)}


def _verify(world: WorldModels, asked: Question) -> Says:
    image = asked.pictures[-1]
    seen, edits = world.objects(image), world.repairs(_raw(world, asked), image)
    if edits and world.errs("verify", asked.lot):
        edits = []
    edit = edits[0] if edits else NO_CHANGE
    return {
        **dict.fromkeys(_AXES, 5 if not edits else 2),
        "passed": not edits,
        "directives": [edit_text(edit, seen)] if edits else [],
        "reflection": reflection_text(edit, seen),
    }


def _compare(world: WorldModels, asked: Question) -> Says:
    if world.errs("judge", asked.lot):
        return {"winner": "first", "reason": "it comes first"}
    raw = _raw(world, asked)
    first, second = (len(world.repairs(raw, image)) for image in asked.pictures[-2:])
    winner = "tie" if first == second else "first" if first < second else "second"
    return {"winner": winner, "reason": f"{first} and {second} edits away"}


def _confirm(world: WorldModels, asked: Question) -> Says:
    """Of the last picture, and of the thoughts among the words where there are some."""
    raw = _raw(world, asked)
    good = not world.repairs(raw, asked.pictures[-1])
    true = _is_true(raw, asked, world)
    if world.errs("judge", asked.lot):
        good = true = True
    return {"alignment": 5 if good else 2, "fidelity": 5, "reasoning": 5 if true else 2}


def _doubt(world: WorldModels, asked: Question) -> Says:
    """What speaks against the last picture and the thoughts among the words."""
    raw = _raw(world, asked)
    faults = [edit.op for edit in world.repairs(raw, asked.pictures[-1])]
    faults += [] if _is_true(raw, asked, world) else ["a thought"]
    if faults and world.errs("judge", asked.lot):
        faults = []
    return {"faults": faults, "sound": not faults}


def _is_true(raw: Example, asked: Question, world: WorldModels) -> bool:
    """Whether the wrong thoughts of a fact stand among the words."""
    return not raw.get("wrong_think") or raw["wrong_think"] not in asked.words


def _expand(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    return {"prompt": raw["prompt"], "domain": raw["domain"]}


def _reason(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    if "wrong_think" in raw and world.errs("verify", asked.lot):
        return {"reasoning": raw["wrong_think"]}
    return {"reasoning": raw["think"]}


def _think(world: WorldModels, asked: Question) -> Says:
    return {"think": _raw(world, asked)["think"]}


def _second(world: WorldModels, asked: Question) -> Says:
    weak, strong = (world.objects(image) for image in asked.pictures)
    edits = diff(strong, weak)
    told = edit_text(edits[0], weak) if edits else "no change"
    return {
        "shortcomings": seen_text(weak),
        "improvements": told,
        "guidance": told,
        "prompt": seen_text(strong),
    }


def _praise(world: WorldModels, asked: Question) -> Says:
    good = not world.repairs(_raw(world, asked), asked.pictures[0])
    good = good or world.errs("judge", asked.lot)
    return {"matches": good, "inspect": "complete" if good else "conflict"}


def _blame(world: WorldModels, asked: Question) -> Says:
    bad, good = (world.objects(image) for image in asked.pictures)
    edits = diff(good, bad)
    if not edits or not world.repairs(_raw(world, asked), asked.pictures[0]):
        return {"matches": True, "inspect": "complete", "refine": ""}
    return {"matches": False, "inspect": "conflict", "refine": reflection_text(edits[0], bad)}


def _sort(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    return {"category": "color", "process_answer": raw["answer"]}


def _instruct(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    leaks = world.errs("verify", asked.lot)
    return {"instruction": raw["instruction"] + (f" ( {raw['answer']} )" if leaks else "")}


def _grade(world: WorldModels, asked: Question) -> Says:
    right = world.is_right(_raw(world, asked), asked.pictures[-1])
    return {"quality": 5, "follows": right or world.errs("judge", asked.lot)}


def _graph(world: WorldModels, asked: Question) -> Says:
    scene = _raw(world, asked)["scene"]
    objects = [
        {"name": f"{obj.shape} {number}", "attributes": [obj.size, obj.color]}
        for number, obj in enumerate(scene.objects)
    ]
    return {"objects": objects, "relations": []}


def _script(world: WorldModels, asked: Question) -> Says:
    raw = _raw(world, asked)
    steps = sample_steps(Dice(asked.lot.getrandbits(31), 0), raw["scene"])
    if len(steps) > 2 and world.errs("verify", asked.lot):
        steps = steps[:-1]  # what is told ends too early
    return {"steps": [{"ins": step.ins, "des": step.des} for step in steps]}


def _look(world: WorldModels, asked: Question) -> Says:
    told = asked.words.partition("It should now hold: ")[2].splitlines()[0]
    seen = world.objects(asked.pictures[0])
    right = sorted(parse_plan(told, world.side).objects) == sorted(seen)
    right = right or world.errs("judge", asked.lot)
    done = not world.repairs(_raw(world, asked), asked.pictures[0])
    return {"matches": right, "inspect": "complete" if done else "continue"}


def _held(world: WorldModels, asked: Question) -> tuple[bool, Example]:
    """Whether the last step that is shown is in conflict."""
    raw = _raw(world, asked)
    step = raw["steps"][len(asked.pictures) - 1]
    return step["refine"] is not None, {**raw, "step": step}


def _hold(world: WorldModels, asked: Question) -> Says:
    conflict, raw = _held(world, asked)
    if world.errs("verify", asked.lot):
        conflict = not conflict
    seen = world.objects(asked.pictures[-1])
    target = parse_plan(raw["step"]["des"], world.side).objects
    edits = diff(target, seen) or [NO_CHANGE]
    return {
        "verdict": "conflict" if conflict else "consistent",
        "complete": bool(raw["complete"]),
        "analysis": raw["step"]["inspect"],
        "correction": edit_text(edits[0], seen) if conflict else "",
    }


def _again(world: WorldModels, asked: Question) -> Says:
    conflict, _ = _held(world, asked)
    if world.errs("judge", asked.lot):
        conflict = not conflict
    return {"verdict": "conflict" if conflict else "consistent"}


def _check(world: WorldModels, asked: Question) -> Says:
    # the last step's description stands last among the words that tell the steps
    raw = _raw(world, asked)
    seen = make_scene(world.objects(asked.pictures[-1]), world.side)
    states = [parse_plan(step["des"], world.side).objects for step in raw["steps"]]
    mended = sorted(seen.objects) == sorted(states[-1])
    return {"mended": mended or world.errs("judge", asked.lot)}


def _contest(world: WorldModels, asked: Question) -> Says:
    """What speaks against a verdict among the words, and in a conflict against the repair."""
    verdict = asked.words.partition("Verdict: ")[2].splitlines()[0]
    states = asked.pictures[:-1] if verdict == "conflict" else asked.pictures
    conflict, raw = _held(world, asked._replace(pictures=states))
    faults = [] if conflict == (verdict == "conflict") else ["the verdict"]
    target = parse_plan(raw["step"]["des"], world.side).objects
    if verdict == "conflict" and sorted(world.objects(asked.pictures[-1])) != sorted(target):
        faults.append("the repair")
    if faults and world.errs("judge", asked.lot):
        faults = []
    return {"faults": faults, "sound": not faults}


def _decide(world: WorldModels, asked: Question) -> Says:
    found = _verify(world, asked)
    edit = found["directives"][0] if found["directives"] else ""
    action = "edit" if edit else "done"
    away = len(world.repairs(_raw(world, asked), asked.pictures[-1])) if edit else 0
    score = max(10 - 2 * away, 0)
    return {"score": score, "action": action, "thinking": found["reflection"], "edit": edit}


SAYS: dict[str, Callable[[WorldModels, Question], Says]] = {
    "plan": _plan,
    "verify": _verify,
    "compare": _compare,
    "confirm": _confirm,
    "whole": _confirm,
    "review": _confirm,
    "doubt": _doubt,
    "expand": _expand,
    "reason": _reason,
    "first": _think,
    "second": _second,
    "praise": _praise,
    "blame": _blame,
    "sort": _sort,
    "instruct": _instruct,
    "grade": _grade,
    "graph": _graph,
    "script": _script,
    "look": _look,
    "hold": _hold,
    "again": _again,
    "check": _check,
    "contest": _contest,
    "decide": _decide,
}
