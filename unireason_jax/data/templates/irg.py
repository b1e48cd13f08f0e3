"""Interleaving reasoning: six lessons cut from one trace of two turns (IRG, "IRGL-300K").

    trace: prompt -> <think>think</think> -> image -> <think>improve</think> -> improved

    template (with irg_ before)       what is read                            what is learned
    initial_thinking_understanding    prompt, image, question                 think
    initial_thinking_generation       prompt                                  think
    initial_full                      prompt                                  think, image
    improving_thinking_understanding  prompt, image, improved, question       improve
    improving_thinking_generation     prompt, think, image                    improve
    improving_full                    prompt, think, image                    improve, improved

Names are the data groups of the released configuration. The released data hands over to nothing;
ours hands a thought over to the image it prepares, and to the end where the image is already there.
`irg_improving_full` without its contents is the two-turn conversation to be sampled.
"""

from unireason_jax.data.records import Next, Record, Segment
from unireason_jax.data.templates import prompts
from unireason_jax.data.templates.segments import (
    Example,
    given,
    optional,
    record,
    required,
    shown,
    supervised,
    target,
    unsupervised,
)
from unireason_jax.data.templates.style import PLAIN, Style


def irg_initial_thinking_understanding(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, `image`, `question` -> `think`: what was thought before this image was drawn."""
    segments = [
        _prompt(example),
        shown("source", required(example, "image", object)),
        given("user", example.get("question", prompts.IRG_HOW_TO_THINK)),
        _thought("plan", example, "think", "stop", style),
    ]
    return record(example, "irg_initial_thinking_understanding", segments, style)


def irg_initial_thinking_generation(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> `think`."""
    segments = [_prompt(example), _thought("plan", example, "think", "image", style)]
    return record(example, "irg_initial_thinking_generation", segments, style)


def irg_initial_full(example: Example, style: Style = PLAIN) -> Record:
    """`prompt` -> `think` -> `image`."""
    segments = [
        _prompt(example),
        _thought("plan", example, "think", "image", style),
        target("image", example.get("image")),
    ]
    return record(example, "irg_initial_full", segments, style)


def irg_improving_thinking_understanding(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, `image`, `improved`, `question` -> `improve`: what leads from one to the other."""
    segments = [
        _prompt(example),
        shown("draft", required(example, "image", object)),
        shown("refined", required(example, "improved", object)),
        given("user", example.get("question", prompts.IRG_HOW_TO_IMPROVE)),
        _thought("reflection", example, "improve", "stop", style),
    ]
    return record(example, "irg_improving_thinking_understanding", segments, style)


def irg_improving_thinking_generation(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, `think`, `image` -> `improve`."""
    return record(example, "irg_improving_thinking_generation", _improving(example, style), style)


def irg_improving_full(example: Example, style: Style = PLAIN) -> Record:
    """`prompt`, `think`, `image` -> `improve` -> `improved`."""
    segments = [*_improving(example, style), target("refined", example.get("improved"))]
    return record(example, "irg_improving_full", segments, style)


def _improving(example: Example, style: Style) -> list[Segment]:
    return [
        _prompt(example),
        unsupervised("plan", optional(example, "think"), "think"),
        shown("draft", example.get("image")),
        _thought("reflection", example, "improve", "image", style),
    ]


def _prompt(example: Example) -> Segment:
    return given("user", required(example, "prompt"))


def _thought(role: str, example: Example, key: str, then: Next, style: Style) -> Segment:
    then = "none" if style.reference else then
    return supervised(role, optional(example, key), "think", then=then, style=style)
