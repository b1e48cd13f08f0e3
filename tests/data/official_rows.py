"""Small rows of every published format, and ways to spoil them."""

import base64
import io
import json

import numpy as np
from PIL import Image


def png(value: int = 90) -> bytes:
    """A picture of 32 x 32 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


PNG = png()
CUT = PNG[: PNG.index(b"IDAT") + 6]
TEXTS = [None, 7, "", "  ", ["a"], {"a": 1}, "half of a character \ud800"]
PATHS = [None, 7, "", "nowhere.png", "cut.png", "text.png", ["a.png", "b.png"], {"a": 1}]
SOURCES = [7, "nowhere.png", [None], ["cut.png"], {"a": 1}]
BLOBS = [None, b"", b"not an image", CUT]
TURNS = [{"from": "human", "value": "<image> how many?"}, {"from": "gpt", "value": "Two."}]
IMAGE_PART = {"type": "image", "content": base64.b64encode(PNG).decode(), "need_loss": True}
CHAT = [
    {"role": "user", "content": "a red house"},
    {"role": "assistant", "content": [{"type": "text", "content": "a plan"}, IMAGE_PART]},
]


def _with_part(**changes) -> str:
    return json.dumps([CHAT[0], {"role": "assistant", "content": [IMAGE_PART | changes]}])


# format -> (a good row, {field: values that spoil it}); every field listed is needed


def _turn(action: str, edit: str = "None", score: str = "3/10") -> str:
    """A turn of UMM-Reflection's controller."""
    lines = ["[CURRENT_ROUND] Round#1", f"[SCORE] {score}", f"[ACTION] {action}"]
    lines += ["[THINKING] what is there, and what is not", "[SOURCE_IMAGE] given", f"[EDIT] {edit}"]
    return "\n".join(["<think>", *lines, "</think>"])


FORMATS = {
    "examples": (
        {"task": "uni_edit", "instruction": "add", "image": "a.png", "output_image": "b.png"},
        {
            "task": [None, 3, "", "uni_edi", ["uni_edit"], {"a": 1}],
            "instruction": TEXTS,
            "image": PATHS,
        },
    ),
    "unireason": (
        {"txt": "a circle", "image_path": "a.png"},
        {"txt": TEXTS, "image_path": PATHS},
    ),
    "unireason refine": (
        {
            "prompt": "a circle",
            "explanation": "a plan",
            "img_path": "a.png",
            "refined": "b.png",
            "Text Reasoning Trace": "THOUGHT 0: larger <image_start>[refined]<image_end>",
        },
        {
            "prompt": TEXTS,
            "explanation": [7, ["a"]],
            "img_path": PATHS,
            "refined": PATHS,
            "Text Reasoning Trace": [*TEXTS, "larger <image_start>[refined]", "<image_start>["],
        },
    ),
    "unireason edit": (
        {
            "instruction": "add",
            "reasoning": "a plan",
            "input_image": ["a.png"],
            "output_image": "b.png",
        },
        {"instruction": TEXTS, "reasoning": TEXTS, "input_image": SOURCES, "output_image": PATHS},
    ),
    "unireason refine_edit": (
        {
            "prompt": "add",
            "explanation": "a plan",
            "before_image_path": "a.png",
            "after_image_path": "b.png",
            "refined": "a.png",
            "Text Reasoning Trace": "THOUGHT 0: larger <image_start>[refined]<image_end>",
        },
        {
            "prompt": TEXTS,
            "explanation": [7, ["a"]],
            "before_image_path": PATHS,
            "after_image_path": PATHS,
            "refined": PATHS,
            "Text Reasoning Trace": TEXTS,
        },
    ),
    "uni_edit": (
        {"image_path": "a.png", "edit_instruction": "add", "output_image_path": "b.png"},
        {"image_path": PATHS, "edit_instruction": TEXTS, "output_image_path": PATHS},
    ),
    "uni_edit_vqa": (
        {"original_question": "how many?", "original_answer": "two", "image_path": "a.png"},
        {
            "original_question": TEXTS,
            "original_answer": TEXTS,
            "image_path": [7, "", "nowhere.png", "cut.png", "text.png", [None], {"a": 1}],
        },
    ),
    "sharegpt_4o": (
        {"input_prompt": "a circle", "input_image": ["a.png"], "output_image": "b.png"},
        {
            "input_prompt": TEXTS,
            "input_image": SOURCES,
            "output_image": PATHS,
        },
    ),
    "bagel_vlm": (
        {"image": "a.png", "conversations": TURNS},
        {
            "image": [None, [], 7, "nowhere.png", "cut.png", ["a.png", "b.png"], {"a": 1}],
            "conversations": [None, [], 7, "x", [7], TURNS[:1], [TURNS[0], {"from": "gpt"}]],
        },
    ),
    "bagel_t2i": (
        {"image": PNG, "captions": '{"short": "a circle", "long": "a red circle"}'},
        {
            "image": BLOBS,
            "captions": [None, "", "{x", "[]", "{}", '{"a": 3}', '{"a": " "}', '{"a": null}'],
        },
    ),
    "bagel_edit": (
        {"image_list": [PNG, png(20), png(40)], "instruction_list": [["add"], ["paint", "draw"]]},
        {
            "image_list": [None, [], [PNG], *([PNG, blob] for blob in BLOBS)],
            "instruction_list": [None, [], [["a"]], [[], []], [[None], [None]], [["", ""], [" "]]],
        },
    ),
    "umm_reflection": (
        {
            "task": "edit",
            "user_prompt": "make it red",
            "think_list": ["", _turn("edit", "paint it"), _turn("edit", "more"), _turn("done")],
            "step_image_list": ["a.png", "b.png", "a.png", None],
        },
        {
            "task": [7, "t2i", "paint"],
            "user_prompt": TEXTS,
            "think_list": [
                7,
                [],
                ["", _turn("edit", "paint it"), _turn("edit", "more")],
                ["", _turn("edit", "paint it"), _turn("done"), _turn("done")],
                ["", _turn("edit"), _turn("edit", "more"), _turn("done")],
                ["", _turn("edit", "paint it"), None, _turn("done")],
                ["", _turn("edit", "paint it"), "looks good", _turn("done")],
                ["", _turn("edit", "paint it"), _turn("edit", "x", score="11/10"), _turn("done")],
                ["", _turn("edit", "paint it"), _turn("edit", "x") * 2, _turn("done")],
            ],
            "step_image_list": [
                None,
                [],
                ["a.png", "b.png", None, None],
                [None, "b.png", "a.png", None],
                ["a.png", "b.png", "a.png", "b.png"],
                ["a.png", "b.png", 7, None],
                ["a.png", "b.png", "nowhere.png", None],
                ["a.png", "cut.png", "b.png", None],
            ],
        },
    ),
    "irg": (
        {"conversation": json.dumps(CHAT)},
        {
            "conversation": [
                None,
                "",
                "{",
                "[]",
                "{}",
                "[7]",
                json.dumps(CHAT[:1]),
                json.dumps([{"role": "user"}, CHAT[1]]),
                json.dumps([CHAT[0], {"role": "assistant", "content": "text"}]),
                json.dumps([CHAT[0], {"role": "assistant", "content": ["part"]}]),
                _with_part(content="@@@"),
                _with_part(content=""),
                _with_part(content=None),
                _with_part(content=base64.b64encode(CUT).decode()),
                _with_part(need_loss="false"),
                _with_part(need_loss=False),
                _with_part(type="video"),
            ]
        },
    ),
}
MAY_LACK = {
    ("unireason edit", "reasoning"),
    ("unireason refine", "explanation"),
    ("unireason refine_edit", "explanation"),
    ("uni_edit_vqa", "image_path"),
    ("sharegpt_4o", "input_image"),
}
PARQUET = ("bagel_t2i", "bagel_edit", "irg")


def rows_of(name: str, good: int, bad: int) -> tuple[list[dict], set[str]]:
    """Rows of a format in a random order, and the ids of those that can be used."""
    rng = np.random.default_rng(len(name))
    row, spoilers = FORMATS[name]
    choices = [(field, value) for field, values in spoilers.items() for value in values]
    if name not in PARQUET:
        choices += [(field, ...) for field in spoilers if (name, field) not in MAY_LACK]
    rows = [{"id": f"good-{i}", **row} for i in range(good)]
    for i in range(bad):
        field, value = choices[i % len(choices)]
        spoilt = {"id": f"bad-{i}", **row, field: value}
        rows.append({key: value for key, value in spoilt.items() if value is not ...})
    rng.shuffle(rows)
    return rows, {f"good-{i}" for i in range(good)}
