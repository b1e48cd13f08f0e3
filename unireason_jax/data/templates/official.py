"""Rows of the published data sets -> raw examples or records, by format or told apart by keys.

What the official loaders let through by accident is refused with its reason: a prompt that is null
or a number, a trace without an image, a reference to an image that the row does not have.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from unireason_jax.data.records import Record, Segment, cut, names
from unireason_jax.data.templates import official_bagel, official_umm
from unireason_jax.data.templates.official_bagel import CAPTIONS
from unireason_jax.data.templates.official_fields import (
    IMAGES,
    Row,
    images_of,
    licence,
    one_image,
    origin,
    problem,
    reasoning,
    row_id,
    words,
)
from unireason_jax.data.templates.official_irg import irg_row
from unireason_jax.data.templates.segments import Example

_REFERENCE = re.compile(r"<image_start>\[([^\[\]]+)\]<image_end>")
_THOUGHT = re.compile(r"THOUGHT\s*\d+:\s*")


def read_row(row: Row, form: str = "auto", visit: int = 0) -> Example | Record:
    """The example (or, for conversations, the record) that a row of a published set stands for.

    A row that names its `task` is already an example and comes back as it is, where the form does
    not say otherwise. `id` must be there.

    Args:
      row: one object of a JSON file or one row of a parquet file.
      form: a name in FORMATS; "auto" tells the format by the row's keys.
      visit: which of the many records a BAGEL row stands for; the same visit, the same record.

    Raises:
      RecordError: unknown keys, or contents that cannot be used.
    """
    form = recognised(row) if form == "auto" else form
    if form is None and any(row.get(key) is not None for key in IMAGES):
        others = {key: row[key] for key in row if key not in (*IMAGES, "id", "licence")}
        unknown = f"; unknown fields {names(others)}" if others else ""
        raise problem(row, f"an image without words: give 'text' or 'caption' beside it{unknown}")
    if form is None:
        raise problem(
            row,
            f"unknown fields {names(row)}; give 'task', an image with 'text' or 'caption', "
            f"or the keys of one of the formats {', '.join(FORMATS[2:])}",
        )
    if form in DRAWN:
        return DRAWN[form](row, _generator(row, visit))
    return _READERS[form](row)


def recognised(row: Row) -> str | None:
    """The format that a row's keys give away; None for none. A key that is null counts last."""
    if row.get("think_list") is not None:
        return "umm_reflection"  # which has a task of its own
    if row.get("task") is not None:
        return "examples"
    for there in ([key for key in row if row[key] is not None], row):
        for key, form in _KEYS.items():
            if key in there:
                return form
        if any(key in there for key in CAPTIONS) and any(key in there for key in IMAGES):
            return "bagel_t2i"
    return None


def fields_of(form: str, names: Sequence[str]) -> list[str] | None:
    """Those of the fields `names` of a file that a format reads; None for all of them.

    All are read where they name each other, and where no format has them, so as to be named.
    """
    free = {"task", "Text Reasoning Trace"} & set(names)
    unknown = recognised(dict.fromkeys(names)) is None
    if (form == "auto" and (free or unknown)) or form in ("examples", "unireason"):
        return None
    read = [_FIELDS[form]] if form in _FIELDS else list(_FIELDS.values())
    return [name for name in names if name in _COMMON or any(name in fields for fields in read)]


def checked_format(form: str) -> str:
    """`form`, if there is such a format. Raises ValueError naming the nearest one."""
    if form not in FORMATS:
        near = difflib.get_close_matches(form, FORMATS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(FORMATS)}"
        raise ValueError(f"unknown format {form!r}; {hint}")
    return form


def _generator(row: Row, visit: int) -> np.random.Generator:
    key = hashlib.sha256(f"{row_id(row)}@{visit}".encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:8], "little")))


def _unireason(row: Row) -> Example:
    """A row of UniReason's six JSON formats."""
    for key, reader in {"Text Reasoning Trace": _refine, "txt": _t2i, "instruction": _edit}.items():
        if key in row:
            return reader(row)
    raise problem(
        row,
        f"has fields {names(row)}; give 'txt', 'instruction' or 'Text Reasoning Trace'",
    )


def _t2i(row: Row) -> Example:
    return {
        "task": "t2i",
        **origin(row),
        "prompt": words(row, "txt"),
        "think": reasoning(row, "Reasoning", "reasoning"),
        "image": one_image(row, *IMAGES),
    }


def _edit(row: Row) -> Example:
    sources = images_of(row, "input_image")
    if not sources:
        raise problem(row, "field 'input_image' is missing or has an empty entry")
    return {
        "task": "edit",
        **origin(row),
        "instruction": words(row, "instruction"),
        "think": reasoning(row, "reasoning", "Reasoning"),
        "input_image": sources,
        "output_image": one_image(row, "output_image"),
    }


def _refine(row: Row) -> Example:
    """Text before an image reference is its reflection, text after the last one the final one."""
    trace = row["Text Reasoning Trace"]
    if not isinstance(trace, str) or not trace.strip():
        raise problem(row, "field 'Text Reasoning Trace' has no text")
    keys = _REFERENCE.findall(trace)
    texts = [text.strip() for text in _REFERENCE.split(_THOUGHT.sub("", trace))[::2]]
    if any("<image_start>" in text or "<image_end>" in text for text in texts):
        raise problem(
            row,
            "field 'Text Reasoning Trace' has a broken reference; write "
            "<image_start>[key]<image_end>",
        )
    common = {
        **origin(row),
        "explanation": row.get("explanation", ""),
        "rounds": [{"reflection": t, "image": one_image(row, k)} for t, k in zip(texts, keys)],
        "final_reflection": texts[-1],
    }
    if not isinstance(common["explanation"], str):
        raise problem(row, f"field 'explanation' is {cut(common['explanation'])}; give a text")
    if "before_image_path" in row:
        edit = {
            "instruction": words(row, "prompt"),
            "input_image": one_image(row, "before_image_path"),
            "draft": one_image(row, "after_image_path"),
        }
        return {"task": "refine_edit", **common, **edit}
    draft = one_image(row, "img_path")
    return {"task": "refine_t2i", **common, "prompt": words(row, "prompt"), "draft": draft}


def _uni_edit(row: Row) -> Example:
    return {
        "task": "uni_edit",
        **origin(row),
        "image": one_image(row, "image_path"),
        "instruction": words(row, "edit_instruction"),
        "output_image": one_image(row, "output_image_path"),
    }


def _uni_edit_question(row: Row) -> Record:
    """The question behind a Uni-Edit row: question, its images (ViT copies), answer."""
    question, answer = words(row, "original_question"), words(row, "original_answer")
    pictures = images_of(row, "image_path")
    shown = [Segment("image", "source", image=image, und=True) for image in pictures]
    question = question.strip() if pictures else question
    segments = (
        Segment("text", "user", text=question),
        *shown,
        Segment("text", "answer", text=answer, loss="text"),
    )
    return Record(row_id(row), segments, source="vqa", licence=licence(row))


def _sharegpt_4o(row: Row) -> Example:
    """A row of ShareGPT-4o-Image: an edit where it has input images, else text to image."""
    text, output = words(row, "input_prompt"), one_image(row, "output_image")
    sources = images_of(row, "input_image")
    if not sources:
        return {"task": "t2i", **origin(row), "prompt": text, "image": output}
    edit = {"instruction": text, "input_image": sources, "output_image": output}
    return {"task": "edit", **origin(row), **edit}


def _example(row: Row) -> Example:
    if row.get("task") is None:
        raise problem(row, f"has fields {names(row)}; an example names its 'task'")
    if not isinstance(row["task"], str):
        raise problem(row, f"field 'task' is {cut(row['task'])}; give the name of a template")
    return row


_READERS: dict[str, Callable[[Row], Example | Record]] = {
    "examples": _example,
    "unireason": _unireason,
    "bagel_vlm": official_bagel.conversation_row,
    "irg": irg_row,
    "umm_reflection": official_umm.umm_row,
    "uni_edit": _uni_edit,
    "uni_edit_vqa": _uni_edit_question,
    "sharegpt_4o": _sharegpt_4o,
}
DRAWN: dict[str, Callable[[Row, np.random.Generator], Example | Record]] = {
    "bagel_t2i": official_bagel.t2i_row,
    "bagel_edit": official_bagel.edit_row,
}
"""Formats whose rows stand for many records, one of which is drawn."""
FORMATS = ("auto", *_READERS, *DRAWN)
"""Names of the formats; "examples" are rows that name their task."""
_KEYS = {  # key that gives a format away -> format, first match wins
    "conversation": "irg",
    "conversations": "bagel_vlm",
    "messages": "bagel_vlm",
    "Text Reasoning Trace": "unireason",
    "edit_instruction": "uni_edit",
    "txt": "unireason",
    "image_list": "bagel_edit",
    "input_prompt": "sharegpt_4o",
    "instruction": "unireason",
    "original_question": "uni_edit_vqa",
    "captions": "bagel_t2i",
}
_COMMON = ("id", "licence")
_FIELDS = {  # what the formats read beside these; "unireason" names its images as it likes
    "irg": ("conversation",),
    "umm_reflection": official_umm.FIELDS,
    "bagel_vlm": ("conversations", "messages", "image", "images", "video"),
    "uni_edit": ("edit_instruction", "image_path", "output_image_path"),
    "uni_edit_vqa": ("original_question", "original_answer", "image_path"),
    "sharegpt_4o": ("input_prompt", "input_image", "output_image"),
    "bagel_t2i": (*CAPTIONS, *IMAGES),
    "bagel_edit": ("image_list", "instruction_list"),
    "unireason": ("txt", "Reasoning", "reasoning", "instruction", "input_image", "output_image"),
}
