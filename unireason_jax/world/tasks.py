"""Raw examples of every task, as pure functions of (seed, index).

An example is a plain dict in the raw format of its family (`task`), the same keys that data sets on
disk have, plus what judges need: `scene`s, `requirement`, and `tag`, `domain` or `op`. Texts carry
no tags (`<think>` and the like belong to the templates).

    t2i, think_t2i              prompt, think (None without), image, scene, requirement, tag
    knowledge, think_knowledge  the same, and domain, subcategory, hint, explanation, wrong_think,
                                wrong_requirement; task "t2i"
    edit, think_edit            instruction, think, input_image, output_image, source, scene, op
    refine_t2i                  prompt, explanation (the plan), draft, rounds [{reflection, image,
                                scene}], final_reflection, faults
    refine_knowledge            the same for knowledge prompts; the plan begins with the fact
    refine_edit                 the same with instruction and input_image
    process                     prompt, steps [{ins, des, image, inspect, refine, refined}]
    process_conflict            the same, up to a step whose inspection is the point; complete
    process_alignment           prompt, image, inspect, refine, refined
    irg_* (six)                 prompt, think, image, and as needed improve, improved, question
    vqa, caption                image, question, answer; a caption answers what there is
    uni_edit                    image, instruction, output_image, question, answer
    hard_...                    of the harder world, see `unireason_jax.world.hard.lessons`
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from unireason_jax.world import lessons, renderer
from unireason_jax.world.dice import Dice
from unireason_jax.world.drafts import Trace, sample_trace
from unireason_jax.world.edits import NO_CHANGE
from unireason_jax.world.hard import lessons as hard
from unireason_jax.world.hard.things import SIDES
from unireason_jax.world.instructions import sample_edit
from unireason_jax.world.knowledge import all_facts, sample_item, wrong_think
from unireason_jax.world.language import plan_text, reflection_text
from unireason_jax.world.prompts import sample_prompt
from unireason_jax.world.questions import sample_answer_edit, sample_question
from unireason_jax.world.requirements import Requirement, sample_scene
from unireason_jax.world.scenes import SIDE, Scene, make_scene
from unireason_jax.world.steps import sample_steps

Example = dict[str, Any]
Draw = Callable[[Scene], np.ndarray]
PROCESS_TAGS = ("two_object", "counting", "position", "position", "color_attr")


def _undrawn(scene: Scene) -> np.ndarray:
    """Stand in for a picture where only its shape matters: the read-only empty canvas."""
    return renderer.blank(scene.side)


def _t2i(dice: Dice, draw: Draw, side: int, *, think: bool, tag: str | None, **split) -> Example:
    prompt = sample_prompt(dice, tag=tag, **split)
    unseen = split["unseen_pairs"]
    scene = sample_scene(prompt.requirement, dice, side, unseen_pairs=unseen)
    return {
        "task": "t2i",
        "prompt": prompt.text,
        "think": plan_text(scene.objects) if think else None,
        "image": draw(scene),
        "scene": scene,
        "requirement": prompt.requirement,
        "tag": prompt.tag,
    }


def _knowledge(
    dice: Dice, draw: Draw, side: int, *, think: bool, tag: str | None, **split
) -> Example:
    item = sample_item(dice, side, domain=tag, held_out=split["held_out"])
    fact = all_facts(side)[item.fact]
    scene = sample_scene(fact.requirement, dice, side)
    wrong, wrong_requirement = wrong_think(dice, item, side)
    return {
        "task": "t2i",
        "prompt": item.prompt,
        "think": plan_text(scene.objects, fact.fact) if think else None,
        "image": draw(scene),
        "scene": scene,
        "requirement": fact.requirement,
        "tag": fact.domain,
        "domain": fact.domain,
        "subcategory": fact.subcategory,
        "hint": fact.hint,
        "explanation": fact.explanation,
        "wrong_think": wrong,
        "wrong_requirement": wrong_requirement,
    }


def _edit(dice: Dice, draw: Draw, side: int, *, think: bool, tag: str | None, **split) -> Example:
    task = sample_edit(dice, side, op=tag, held_out=split["held_out"])
    return {
        "task": "edit",
        "instruction": task.instruction,
        "think": plan_text(task.target.objects, task.fact) if think else None,
        "input_image": draw(task.source),
        "output_image": draw(task.target),
        "source": task.source,
        "scene": task.target,
        "requirement": task.requirement,
        "op": task.op,
    }


def _rounds(trace: Trace, draw: Draw) -> Example:
    return {
        "draft": draw(trace.draft),
        "draft_scene": trace.draft,
        "faults": trace.faults,
        "rounds": [
            {"reflection": step.reflection, "image": draw(step.scene), "scene": step.scene}
            for step in trace.rounds
        ],
        "final_reflection": reflection_text(NO_CHANGE, trace.final.objects),
    }


def _refine_t2i(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> Example:
    prompt = sample_prompt(dice, tag=tag, **split)
    scene = sample_scene(prompt.requirement, dice, side, unseen_pairs=split["unseen_pairs"])
    return _refined(dice, draw, prompt.text, "", scene, prompt.requirement, prompt.tag)


def _refine_knowledge(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> Example:
    item = sample_item(dice, side, domain=tag, held_out=split["held_out"])
    fact = all_facts(side)[item.fact]
    scene = sample_scene(fact.requirement, dice, side)
    trace = _refined(dice, draw, item.prompt, fact.fact, scene, fact.requirement, fact.domain)
    return trace | {"domain": fact.domain}


def _refined(
    dice: Dice,
    draw: Draw,
    prompt: str,
    fact: str,
    scene: Scene,
    requirement: Requirement,
    tag: str,
) -> Example:
    return {
        "task": "refine_t2i",
        "prompt": prompt,
        "explanation": plan_text(scene.objects, fact),
        **_rounds(sample_trace(dice, requirement, scene), draw),
        "scene": scene,
        "requirement": requirement,
        "tag": tag,
    }


def _refine_edit(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> Example:
    task = sample_edit(dice, side, op=tag, held_out=split["held_out"])
    return {
        "task": "refine_edit",
        "instruction": task.instruction,
        "input_image": draw(task.source),
        "explanation": plan_text(task.target.objects, task.fact),
        **_rounds(sample_trace(dice, task.requirement, task.target), draw),
        "source": task.source,
        "scene": task.target,
        "requirement": task.requirement,
        "op": task.op,
    }


def _process(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> Example:
    tag = tag or dice.pick(PROCESS_TAGS)
    prompt = sample_prompt(dice, tag=tag, **split)
    scene = sample_scene(prompt.requirement, dice, side)
    steps = [lessons.tell(step, draw) for step in sample_steps(dice, scene)]
    return {
        "task": "process",
        "prompt": prompt.text,
        "steps": steps,
        "scene": scene,
        "requirement": prompt.requirement,
        "tag": prompt.tag,
    }


def _vqa(
    dice: Dice, draw: Draw, side: int, *, kind: str | None, tag: str | None, **split
) -> Example:
    question, objects = sample_question(dice, side, kind=tag or kind, held_out=split["held_out"])
    scene = make_scene(objects, side)
    return {
        "task": "vqa",
        "image": draw(scene),
        "question": question.text,
        "answer": question.answer,
        "scene": scene,
        "tag": question.kind,
    }


def _uni_edit(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> Example:
    task, question = sample_answer_edit(dice, side, kind=tag, held_out=split["held_out"])
    return {
        "task": "uni_edit",
        "image": draw(task.source),
        "instruction": task.instruction,
        "output_image": draw(task.target),
        "question": question.text,
        "answer": question.answer,
        "source": task.source,
        "scene": task.target,
        "requirement": task.requirement,
        "op": task.op,
    }


_BUILDERS: dict[str, Callable[..., Example]] = {
    "t2i": partial(_t2i, think=False),
    "think_t2i": partial(_t2i, think=True),
    "knowledge": partial(_knowledge, think=False),
    "think_knowledge": partial(_knowledge, think=True),
    "edit": partial(_edit, think=False),
    "think_edit": partial(_edit, think=True),
    "refine_t2i": _refine_t2i,
    "refine_knowledge": _refine_knowledge,
    "refine_edit": _refine_edit,
    "process": _process,
    "process_conflict": partial(lessons.conflict, tags=PROCESS_TAGS),
    "process_alignment": lessons.alignment,
    "vqa": partial(_vqa, kind=None),
    "caption": partial(_vqa, kind="describe"),
    "uni_edit": _uni_edit,
    **{lesson: partial(lessons.irg, lesson=lesson) for lesson in lessons.IRG},
}
TASKS = tuple(_BUILDERS)
HARD_TASKS = hard.TASKS


def is_hard(shares: Mapping[str, float]) -> bool:
    """Whether any task of the harder world has a share."""
    return any(shares.get(task, 0) > 0 for task in HARD_TASKS)


def example(
    seed: int,
    index: int,
    task: str,
    *,
    side: int = SIDE,
    tag: str | None = None,
    held_out: bool = False,
    unseen_pairs: bool = False,
    render: bool = True,
) -> Example:
    """Return one raw example, a pure function of its arguments.

    Args:
        seed: data seed.
        index: example number, any integer from 0 on.
        task: one of `TASKS` or `HARD_TASKS`.
        side: cells per side of the canvas.
        tag: restrict to one category: a prompt tag (t2i, refine_t2i, process), a knowledge domain,
            an edit op, a question kind (vqa) or a uni_edit kind.
        held_out: draw only prompts (instructions, questions) that training never sees; otherwise
            only the others.
        unseen_pairs: for t2i and refine_t2i, draw prompts with a (shape, colour) pair that
            training never sees.
        render: False leaves out the drawing: every picture is the same read-only empty canvas of
            the right shape. Everything else is unchanged.

    Returns:
        A dict with `task`, `id`, `kind` (the `task` argument) and the keys listed above.

    Raises:
        ValueError: for an unknown task or tag, or an option the task does not have.
    """
    if task not in _BUILDERS and task not in HARD_TASKS:
        raise ValueError(f"unknown world task {task!r}; use one of {(*TASKS, *HARD_TASKS)}")
    if unseen_pairs and task not in ("t2i", "think_t2i", "refine_t2i"):
        raise ValueError(f"world task {task!r} has no unseen_pairs split")
    dice = Dice(seed, index, task)
    name = {"id": f"{task}-{seed}-{index}", "kind": task}
    if task in HARD_TASKS:
        if side not in SIDES:
            raise ValueError(
                f"world task {task!r} has {SIDES[0]} to {SIDES[-1]} cells per side, not {side}; "
                f"set config.data.side={hard.SIDE}."
            )
        options = {"render_it": render, "tag": tag, "held_out": held_out, "side": side}
        return name | hard.build(task, dice, **options)
    draw = renderer.render if render else _undrawn
    split = {"held_out": held_out, "unseen_pairs": unseen_pairs}
    raw = _BUILDERS[task](dice, draw, side, tag=tag, **split)
    return name | raw
