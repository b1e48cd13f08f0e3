"""Lessons cut from traces: IRG's six, and the two critique subsets of process-driven generation.

Raw examples without the keys that `world.tasks` adds; see there for what every task has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from unireason_jax.world.dice import Dice
from unireason_jax.world.drafts import inject_faults, repair, sample_trace
from unireason_jax.world.language import plan_text
from unireason_jax.world.prompts import Prompt, sample_prompt
from unireason_jax.world.requirements import sample_scene
from unireason_jax.world.scenes import Scene
from unireason_jax.world.steps import COMPLETE, CONFLICT, Step, sample_steps

Draw = Callable[[Scene], np.ndarray]
IRG = (
    "irg_initial_thinking_understanding",
    "irg_initial_thinking_generation",
    "irg_initial_full",
    "irg_improving_thinking_understanding",
    "irg_improving_thinking_generation",
    "irg_improving_full",
)
QUESTIONS = {
    "irg_initial_thinking_understanding": "what is there in the picture",
    "irg_improving_thinking_understanding": "what change from the first to the second",
}


def irg(dice: Dice, draw: Draw, side: int, *, lesson: str, tag: str | None, **split) -> dict:
    """One of IRG's lessons: prompt, think, image, and for the improving ones improve, improved.

    The initial image of an improving lesson has one fault that breaks the prompt.
    """
    prompt, scene = _prompted(dice, side, tag, split)
    example = {
        "task": lesson,
        "prompt": prompt.text,
        "think": plan_text(scene.objects),
        "image": draw(scene),
        **_judged(prompt, scene),
    }
    if "improving" in lesson:
        draft, faults = inject_faults(dice, prompt.requirement, scene, 1)
        example |= {
            "image": draw(draft),
            "draft_scene": draft,
            "faults": faults,
            "improve": repair(scene, draft)[0].reflection,
            "improved": draw(scene),
        }
    if lesson in QUESTIONS:
        example["question"] = QUESTIONS[lesson]
    return example


def tell(step: Step, draw: Draw) -> dict[str, Any]:
    """A step as raw examples hold it."""
    return {
        "ins": step.ins,
        "des": step.des,
        "image": draw(step.scene),
        "inspect": step.inspect,
        "refine": step.refine,
        "refined": None if step.refined is None else draw(step.refined),
        "scene": step.scene,
    }


def conflict(
    dice: Dice, draw: Draw, side: int, *, tag: str | None, tags: tuple[str, ...], **split
) -> dict:
    """A drawing in steps up to one that is inspected, wrong where the trace has a wrong step."""
    prompt, scene = _prompted(dice, side, tag or dice.pick(tags), split)
    steps = sample_steps(dice, scene)
    wrong = [number for number, step in enumerate(steps) if step.refine is not None]
    last = wrong[0] if wrong else dice.below(len(steps))
    return {
        "task": "process_conflict",
        "prompt": prompt.text,
        "steps": [tell(step, draw) for step in steps[: last + 1]],
        "complete": last == len(steps) - 1,
        **_judged(prompt, scene),
    }


def alignment(dice: Dice, draw: Draw, side: int, *, tag: str | None, **split) -> dict:
    """A finished picture held against its prompt: right (half of them), or repaired."""
    prompt, scene = _prompted(dice, side, tag, split)
    trace = sample_trace(dice, prompt.requirement, scene)
    first = trace.rounds[0] if trace.rounds else None
    return {
        "task": "process_alignment",
        "prompt": prompt.text,
        "image": draw(trace.draft),
        "draft_scene": trace.draft,
        "faults": trace.faults,
        "inspect": CONFLICT if first else COMPLETE,
        "refine": first.reflection if first else None,
        "refined": draw(first.scene) if first else None,
        **_judged(prompt, scene),
    }


def _prompted(dice: Dice, side: int, tag: str | None, split: dict) -> tuple[Prompt, Scene]:
    prompt = sample_prompt(dice, tag=tag, **split)
    unseen = split["unseen_pairs"]
    return prompt, sample_scene(prompt.requirement, dice, side, unseen_pairs=unseen)


def _judged(prompt: Prompt, scene: Scene) -> dict[str, Any]:
    return {"scene": scene, "requirement": prompt.requirement, "tag": prompt.tag}
