"""UMM-Reflection's trajectories: a controller looks, scores, and edits or is done, turn by turn.

A row of the release (`trajectory_parquet`) has a list for each of these, one entry a step:

    think_list        the controller's turn: lines [CURRENT_ROUND], [SCORE] n/10, [ACTION] edit or
                      done, [THINKING], [SOURCE_IMAGE] and [EDIT], within <think> tags
    step_image_list   the picture that its edit made; none where it is done

The first turn plans the first picture. Of an edit (`task`) step 0 is the source picture and has no
turn. From waltstephen/UMM-Reflection, `prepare_clean29529_multiround_transition_data.py`.
"""

import re
from typing import Any

from unireason_jax.data.records import cut
from unireason_jax.data.templates.official_fields import Row, origin, problem, words
from unireason_jax.data.templates.segments import Example

FIELDS = ("task", "user_prompt", "think_list", "step_image_list")
_NAME = re.compile(r"^[ \t]*\[([A-Z][A-Z_]*)\]", re.MULTILINE)
_SCORE = re.compile(r"(\d{1,2})\s*/\s*10")
_NOTHING = ("", "none", "null", "n/a", "na")


def controller_turn(score: int, action: str, thinking: str, edit: str) -> str:
    """One turn of a controller as one text; round and source are where the text stands."""
    change = edit if action == "edit" else "None"
    return f"[SCORE] {score}/10\n[ACTION] {action}\n[THINKING] {thinking}\n[EDIT] {change}"


def umm_row(row: Row) -> Example:
    """An example of `refine_t2i` or `refine_edit`; the first turn is its plan.

    Raises:
      RecordError: a turn that cannot be read, one without its picture, or no end.
    """
    task = row.get("task")
    if task not in ("t2i", "edit"):
        raise problem(row, f"field 'task' is {cut(task)}; give t2i or edit")
    is_edit = task == "edit"
    turns, images = (_list(row, key) for key in FIELDS[2:])
    first = int(is_edit)
    if len(turns) != len(images) or len(turns) < first + 2:
        raise problem(
            row,
            f"'think_list' has {len(turns)} steps and 'step_image_list' {len(images)}; give as "
            "many of both: a plan with the first picture, and an end",
        )
    read = [_turn(row, number, turn) for number, turn in enumerate(turns[first:], first)]
    for number, (turn, image) in enumerate(zip(read, images[first:]), first):
        ends = number == len(turns) - 1
        if (turn["action"] == "done") != ends or bool(image) == ends:
            raise problem(
                row,
                f"step {number} is '{turn['action']}' and has {'a' if image else 'no'} picture; "
                "give every edit its picture, and 'done' without one at the end",
            )
    told = [controller_turn(**turn) for turn in read]
    made = images[first:-1]
    trace = {
        "explanation": f"{read[0]['thinking']}\n{read[0]['edit']}",
        "draft": _image(row, first, made[0]),
        "rounds": [
            {"reflection": text, "image": _image(row, number, image)}
            for number, (text, image) in enumerate(zip(told[1:], made[1:]), first + 1)
        ],
        "final_reflection": told[-1],
    }
    prompt = words(row, "user_prompt")
    if not is_edit:
        return {"task": "refine_t2i", **origin(row), "prompt": prompt, **trace}
    asked = {"instruction": prompt, "input_image": [_image(row, 0, images[0])]}
    return {"task": "refine_edit", **origin(row), **asked, **trace}


def _list(row: Row, key: str) -> list[Any]:
    value = row.get(key)
    if not isinstance(value, list):
        raise problem(row, f"field '{key}' is {cut(value)}; give a list with one entry a step")
    return value


def _image(row: Row, number: int, image: Any) -> str | bytes:
    if not image or not isinstance(image, str | bytes):
        raise problem(
            row, f"field 'step_image_list', entry {number} is {cut(image)}; give an image"
        )
    return image


def _turn(row: Row, number: int, text: Any) -> dict[str, Any]:
    """Score, action, thinking and edit of a turn."""
    place = f"field 'think_list', entry {number}"
    if not isinstance(text, str):
        raise problem(row, f"{place} is {cut(text)}; give the controller's turn")
    _, *parts = _NAME.split(text.replace("<think>", "").replace("</think>", ""))
    names = parts[::2]
    found = {name: value.strip() for name, value in zip(names, parts[1::2])}
    for name in ("SCORE", "ACTION", "THINKING", "EDIT"):
        if names.count(name) != 1:
            raise problem(row, f"{place} has {names.count(name)} times [{name}]; give it once")
    score, action = _SCORE.fullmatch(found["SCORE"]), found["ACTION"].lower()
    if not score or int(score[1]) > 10 or action not in ("edit", "done") or not found["THINKING"]:
        raise problem(
            row,
            f"{place} has score {cut(found['SCORE'])}, action {cut(found['ACTION'])} and thinking "
            f"{cut(found['THINKING'])}; give n/10, edit or done, and words",
        )
    if (found["EDIT"].lower() in _NOTHING) == (action == "edit"):
        raise problem(row, f"{place} is '{action}' with the edit {cut(found['EDIT'])}")
    return {
        "score": int(score[1]),
        "action": action,
        "thinking": found["THINKING"],
        "edit": found["EDIT"],
    }
