"""Edits, questions, and edits that hide a question: is the result right, and is the rest kept?"""

from unireason_jax.evals.rates import average, by_group
from unireason_jax.evals.world.exam import Exam, Part, asked, table
from unireason_jax.evals.world.report import Section
from unireason_jax.world import instructions, questions
from unireason_jax.world.verifier import check_edit, check_image

KEPT = 4.0


def edits(exam: Exam, count: int) -> Part:
    """Edit instructions, and how well the rest of the picture is kept."""
    if not count:
        return Part()
    examples = exam.requests("edit", instructions.OPS, count, held_out=True)
    traces = exam.traces("edit", [asked(e, "instruction", "input_image") for e in examples], 1)
    right, outside = [], []
    for e, trace in zip(examples, traces):
        image = e["input_image"]
        verdict = check_edit(e["requirement"], e["source"], e["scene"], image, trace.image)
        right.append((e["op"], verdict.passed))
        outside.append((e["op"], verdict.outside))
    columns = {
        "right": by_group(right),
        "kept": by_group((op, change <= KEPT) for op, change in outside),
    }
    rows, means = table(columns, "mean of operations")
    note = f"Kept: mean absolute difference outside the edited cells at most {KEPT:.0f} of 255."
    note += exam.note("edit")
    changes = {op: [x for name, x in outside if name == op] for op in columns["right"]}
    change_rows = [(op, (average(values),)) for op, values in changes.items()]
    change_rows.append(("all", (average([x for _, x in outside]),)))
    sections = [
        Section("edits", "Edits by operation", tuple(columns), tuple(rows), note, True),
        Section(
            "preservation",
            "Change outside the edit",
            ("levels of 255",),
            tuple(change_rows),
            "Mean absolute difference to the input outside the edited cells; 0 is untouched.",
        ),
    ]
    return Part(sections, {"edits": means["right"]}, {"edits": columns["right"]})


def answers(exam: Exam, count: int) -> Part:
    """Questions about pictures: exact match of the answer."""
    if not count:
        return Part()
    examples = exam.requests("vqa", questions.KINDS, count, held_out=True)
    traces = exam.traces("vqa", [asked(e, "image", "question") for e in examples], 0.25)
    groups = by_group(
        (e["tag"], (t.text_of("answer") or "").split() == e["answer"].split())
        for e, t in zip(examples, traces)
    )
    rows, means = table({"rate": groups}, "mean of kinds")
    section = Section(
        "questions", "Questions about pictures", ("rate",), tuple(rows), "Exact match."
    )
    return Part([section], {"questions": means["rate"]}, {"questions": groups})


def hidden_questions(exam: Exam, count: int) -> Part:
    """Uni-Edit: the instruction needs an answer; its other branch must leave the picture alone."""
    if not count:
        return Part()
    examples = exam.requests("uni_edit", questions.EDIT_KINDS, count, held_out=True)
    traces = exam.traces("uni_edit", [asked(e, "image", "instruction") for e in examples], 1)
    groups = by_group(
        (_branch(e), check_image(e["requirement"], t.image).passed)
        for e, t in zip(examples, traces)
    )
    rows, means = table({"right": groups}, "mean of kinds")
    note = "No-op: the condition is false, so the right result is the unchanged picture."
    note += exam.note("uni_edit")
    section = Section("hidden", "Edits that hide a question", ("right",), tuple(rows), note)
    return Part([section], {"hidden questions": means["right"]}, {"hidden questions": groups})


def _branch(example: dict) -> str:
    """The kind of a hidden question; branches apart by whether something is to be done."""
    idle = example["source"] == example["scene"]
    return "branch, no-op" if idle else example["op"]
