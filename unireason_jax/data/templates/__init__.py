"""Templates: pure functions from a raw example to a record, for training and sampling alike.

A raw example is a plain dict, from the embedded world, a JSON line, or a request. What it lacks
becomes a hole for the sampler, so that a model reads while sampling the very tokens it was trained
on. `TEMPLATES` names them all; `to_record` chooses by the example.
"""

import difflib
from collections.abc import Callable

from unireason_jax.data.records import Record, RecordError, cut
from unireason_jax.data.templates import irg
from unireason_jax.data.templates.generation import edit, t2i, think_edit, think_t2i, uni_edit
from unireason_jax.data.templates.hops import multi_edit
from unireason_jax.data.templates.interleaved import answer, interleaved, think_interleaved
from unireason_jax.data.templates.process_driven import process, process_alignment, process_conflict
from unireason_jax.data.templates.refinement import refine_edit, refine_t2i, rethink_t2i
from unireason_jax.data.templates.segments import Example
from unireason_jax.data.templates.style import PLAIN, STYLE_OF, STYLES, Style
from unireason_jax.data.templates.understanding import vqa

Template = Callable[[Example, Style], Record]
TEMPLATES: dict[str, Template] = {
    template.__name__: template
    for template in (
        t2i,
        think_t2i,
        edit,
        think_edit,
        multi_edit,
        uni_edit,
        refine_t2i,
        refine_edit,
        process,
        process_conflict,
        process_alignment,
        irg.irg_initial_thinking_understanding,
        irg.irg_initial_thinking_generation,
        irg.irg_initial_full,
        irg.irg_improving_thinking_understanding,
        irg.irg_improving_thinking_generation,
        irg.irg_improving_full,
        vqa,
    )
}


REQUESTS: dict[str, Template] = TEMPLATES | {
    template.__name__: template
    for template in (interleaved, think_interleaved, answer, rethink_t2i)
}
"""Templates that requests may have: those of training, and those that no training data has."""


def template_of(example: Example) -> str:
    """Name of the template for an example: its task, thinking where it has a plan.

    Raises:
      RecordError: no `task`, or an unknown one.
    """
    task = example.get("task")
    if task not in TEMPLATES:
        near = difflib.get_close_matches(str(task), TEMPLATES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; use one of {sorted(TEMPLATES)}"
        raise RecordError(str(example.get("id", "?")), None, f"field 'task' is {cut(task)}{hint}")
    thinks = task in ("t2i", "edit") and example.get("think") is not None
    return f"think_{task}" if thinks else task


def to_record(example: Example, style: Style = PLAIN) -> Record:
    """The record of an example by its own template.

    Raises:
      RecordError: the task is unknown, or a field is missing or has the wrong type.
    """
    return TEMPLATES[template_of(example)](example, style)
