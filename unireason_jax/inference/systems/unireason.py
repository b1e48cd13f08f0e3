"""UniReason: as it was trained, and as its evaluation scripts sample.

Scripts differ from training in the order of an edit (picture first), in the system prompt (a new
line in it), and in what a refinement reads. The figures of the paper were made by the scripts.
"""

import dataclasses

from unireason_jax.data.records import Record, Segment
from unireason_jax.data.templates import REQUESTS, TEMPLATES, Example, Style, prompts
from unireason_jax.data.templates.segments import given, shown, supervised, target
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.systems.common import (
    ALWAYS,
    DRAW,
    EDIT,
    SCRIPT,
    SIZE,
    THINKING,
    drawing,
    editing,
    flow,
    with_plan,
)

_TRAINED = Style(system=prompts.UNIREASON)
_OFFICIAL = {"text": THINKING, "max_text": 2047, "max_reflection": 8191, "size": SIZE}
_PROMPT_FREE = flow(EDIT, text_free="all", image_free="gaps")
_REFINE = flow(EDIT, image_scale=1.5, text_free="since_image")


def look(example: Example, style: Style) -> Record:
    """The draft is looked at by the ViT alone, then criticised."""
    seen = Segment("image", "draft", image=example["draft"], und=True)
    reflection = supervised("reflection", None, None, then="none", style=style)
    return Record(example["id"], (*_nudged(example), seen, reflection), "unireason_look")


def redraw(example: Example, style: Style) -> Record:
    """Then the draft is shown as latents too, and the critique drawn from."""
    critique = given("reflection", example["reflection"])
    segments = (*_nudged(example), shown("draft", example["draft"]), critique)
    return Record(example["id"], (*segments, target("refined", None)), "unireason_redraw")


def think_twice(example: Example, style: Style) -> Record:
    """The draft and its plan are drawn from again; nothing is written."""
    segments = (shown("draft", example["draft"]), given("plan", example["plan"]))
    return Record(example["id"], (*segments, target("refined", None)), "unireason_think_twice")


def edit_twice(example: Example, style: Style) -> Record:
    """Source and draft, and the plan, are drawn from again."""
    return _edited(example, [*_sources(example), example["draft"]])


def edit_twice_released(example: Example, style: Style) -> Record:
    """As the script does it: of the pictures it passes, the released function reads the first."""
    return _edited(example, _sources(example)[:1])


def _edited(example: Example, pictures: list) -> Record:
    segments = [shown("source", picture) for picture in pictures]
    segments += [given("plan", example["plan"]), target("refined", None)]
    return Record(example["id"], tuple(segments), "unireason_edit_twice")


def _sources(example: Example) -> list:
    sources = example["input_image"]
    return list(sources) if isinstance(sources, list) else [sources]


def _nudged(example: Example) -> list[Segment]:
    """System prompt, prompt, and the sentence that asks for a suggestion."""
    texts = [given("system", prompts.REFINE), given("user", example["prompt"])]
    return [*texts, given("user", prompts.REFLECT)]


def _suggested(draft: Preset, scale: float, about: str, source: str) -> Preset:
    """A draft that is refined after a suggestion."""
    sentences = (prompts.BAGEL_THINK_IMAGE, "{prompt}", prompts.APPLY_SUGGESTION)
    return dataclasses.replace(
        draft,
        about=about,
        source=source,
        refine=flow(_REFINE, text_scale=scale, image_free=sentences),
        max_reflection=8191,
        reading=SCRIPT,
        learned_stop=False,
        following=(look, redraw),
    )


def _scripts() -> dict[str, Preset]:
    draws = {
        "geneval": ("GenEval", "gen_images_mp.py", ALWAYS, True),
        "wise": ("WISE", "gen_images_mp_wise.py", DRAW, False),
        "corebench": ("T2I-CoReBench", "gen_images_mp_corebench.py", ALWAYS, False),
        "unigenbench": ("UniGenBench", "gen_images_mp_unigenbench.py", ALWAYS, True),
        "dpg": ("DPG-Bench", "gen_images_dpg.py", flow(ALWAYS, text_scale=7.5), False),
    }
    edits = {
        "kris": ("KRIS", "gen_images_mp_kris.py", flow(EDIT, image_scale=1.5), False, 2047),
        "imgedit": ("ImgEdit", "gen_images_mp_imgedit.py", EDIT, True, 2047),
        "gedit": ("GEdit", "gen_images_gedit.py", _late(), False, 10_239),
        "uniredit": ("UniREditBench", "gen_images_mp_uniredit.py", EDIT, False, 2047),
    }
    found: dict[str, Preset] = {}
    for name, (about, file, scales, simple) in draws.items():
        pair = {
            plan: drawing(about, file, scales, plan=plan, simple=simple) for plan in (False, True)
        }
        found |= with_plan(f"unireason_{name}", pair)
    for name, (about, file, scales, simple, limit) in edits.items():
        pair = {
            plan: editing(about, file, scales, plan=plan, simple=simple, max_text=limit)
            for plan in (False, True)
        }
        found |= with_plan(f"unireason_{name}", pair)
    for name, scale in (("corebench", 4.0), ("unigenbench", 3.0)):
        for end in ("", "_think"):
            draft = found[f"unireason_{name}{end}"]
            about = f"{draft.about}: draft{' with a plan' * bool(end)}, suggestion, second drawing"
            source = draft.source.replace(".py", "_refine.py")
            found[f"unireason_{name}_refine{end}"] = _suggested(draft, scale, about, source)
    return found


def _late() -> FlowSettings:
    return flow(EDIT, image_scale=1.5, interval=(0.4, 1.0))


_SCRIPTS = _scripts()
_WISE_REFINE = flow(
    _REFINE, text_scale=3.0, interval=(0.4, 1.0), image_free=(prompts.APPLY_THOUGHT,)
)
_KRIS_REFINE = flow(_REFINE, image_free=(prompts.APPLY_THOUGHT_TO_EDIT,))

UNIREASON: dict[str, Preset] = {
    "unireason_t2i": Preset(
        "a plan, then a picture, as trained; scales of the WISE script",
        "think_t2i",
        _TRAINED,
        source="paper 4.3",
        flow=DRAW,
        **_OFFICIAL,
    ),
    "unireason_edit": Preset(
        "an edit with a plan, in the order of training; scales of the UniREdit script",
        "think_edit",
        _TRAINED,
        source="paper 4.3",
        flow=_PROMPT_FREE,
        **_OFFICIAL,
    ),
    "unireason_refine": Preset(
        "plan and draft, then refined as trained; scales of the WISE script",
        "think_t2i",
        _TRAINED,
        source="paper 4.2",
        flow=DRAW,
        refine=flow(_REFINE, text_scale=3.0, interval=(0.4, 1.0), image_free="gaps"),
        following=(TEMPLATES["refine_t2i"],),
        **_OFFICIAL,
    ),
    "unireason_rethink": Preset(
        "as unireason_refine, with a second plan between reflection and image",
        "think_t2i",
        _TRAINED,
        source="paper 4.2, optional there",
        flow=DRAW,
        refine=flow(_REFINE, text_scale=3.0, interval=(0.4, 1.0), image_free="gaps"),
        following=(REQUESTS["rethink_t2i"],),
        **_OFFICIAL,
    ),
    "unireason_refine_edit": Preset(
        "an edit, then refined as trained; scales of the KRIS script",
        "think_edit",
        _TRAINED,
        source="paper 4.2",
        flow=flow(_PROMPT_FREE, image_scale=1.5),
        refine=flow(_REFINE, image_free="gaps"),
        following=(TEMPLATES["refine_edit"],),
        **_OFFICIAL,
    ),
    **_SCRIPTS,
    "unireason_refine_released": _SCRIPTS["unireason_corebench_refine_think"],
    "unireason_wise_refine": dataclasses.replace(
        _SCRIPTS["unireason_wise_think"],
        about="WISE, thinking twice: draft and plan are drawn from again, nothing more is written",
        source="gen_images_mp_wise_refine.py",
        refine=_WISE_REFINE,
        reading=SCRIPT,
        learned_stop=False,
        following=(think_twice,),
    ),
    "unireason_kris_refine": dataclasses.replace(
        _SCRIPTS["unireason_kris_think"],
        about="KRIS, thinking twice: source, draft and plan are drawn from again",
        source="gen_images_mp_kris_refine.py as it was meant",
        refine=_KRIS_REFINE,
        learned_stop=False,
        following=(edit_twice,),
    ),
    "unireason_kris_refine_released": dataclasses.replace(
        _SCRIPTS["unireason_kris_think"],
        about="KRIS, thinking twice, where the released function reads the source and no draft",
        source="gen_images_mp_kris_refine.py",
        refine=_KRIS_REFINE,
        learned_stop=False,
        following=(edit_twice_released,),
    ),
}
