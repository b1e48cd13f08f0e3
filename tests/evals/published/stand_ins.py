"""Stand-ins of the drawing and the judging of `benchmark`, and a prompt file of every suite.

They write down what they are asked, and end their process as `kill -9` does where they are told to.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unireason_jax import benchmark
from unireason_jax.data.templates import PLAIN
from unireason_jax.evals.published import SUITES, world_sets
from unireason_jax.evals.published.asking import Reply
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Step, Trace

LIMIT = 3
WORLD = {
    "wise": "wise.json",
    "wise_legacy": "wise.json",
    "geneval": "geneval.jsonl",
    "kris": "kris.json",
    "uniredit": "uniredit.json",
    "gedit": "gedit.jsonl",
    "imgedit": "imgedit.json",
    "dpg": "dpg.csv",
    "tiif": "tiif.jsonl",
}
FILES = WORLD | {
    "rise": "rise.json",
    "corebench": "corebench.json",
    "geneval2": "geneval2.jsonl",
    "oneig": "oneig.json",
    "compbench": "color_val.txt",
}
ANSWERS = {
    "wise": "Score: 1",
    "wise_legacy": "Consistency: 2\nRealism: 1\nAesthetic Quality: 2",
    "geneval": '[{"class": "circle", "color": "red", "score": 0.99, "box": [0, 0, 8, 8]}]',
    "kris": '{"consistency_score": 4, "quality_score": 3, "instruction_score": 5, '
    '"knowledge_score": 5}',
    "uniredit": "Final Score: 4",
    "gedit": '{"score": [7, 8]}',
    "imgedit": "Prompt Compliance: 4\nVisual Naturalness: 3\nPhysical & Detail Integrity: 2",
    "dpg": "Yes.",
    "rise": "Final Score: 1",
    "corebench": "yes",
    "geneval2": '{"Yes": 0.5, "two": 0.25}',
    "oneig": "Yes",
    "compbench": '{"score": 3}',
}


def write_prompts(folder: Path) -> None:
    """A small prompt file of every suite, named as in FILES."""
    counts = dict.fromkeys(world_sets.COUNTS, 1) | {"tiif": 6, "dpg": 3, "wise": 2}
    world_sets.write(folder, 1, counts=counts)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    edit = {"instruction": "make it red", "image": "a.png", "reference": "red"}
    kinds = ("temporal_reasoning", "causal_reasoning", "logical_reasoning")
    rows = [{"index": n, "category": kind, **edit} for n, kind in enumerate(kinds)]
    (folder / "rise.json").write_text(json.dumps(rows))
    asked = {"Prompt": "p", "Checklist": [{"question": "Is it red?"}, {"question": "Is it big?"}]}
    rows = {name: asked for name in ("C-MI-001", "C-MA-001", "R-LR-001")}
    (folder / "corebench.json").write_text(json.dumps(rows))
    atoms = {"atom_count": 2, "vqa_list": [["How many cows?", "two"], ["Any cows?", "Yes"]]}
    rows = [{"prompt": f"two cows {n}", **atoms, "skills": ["count", "object"]} for n in range(3)]
    (folder / "geneval2.jsonl").write_text("\n".join(map(json.dumps, rows)))
    alone = {"question": {"1": "A man?", "2": "Tall?"}, "dependency": {"1": [0], "2": [1]}}
    rows = [
        {"category": "Portrait", "id": "000", "prompt": "a tall man", **alone},
        {"category": "Text_Rendering", "id": "000", "prompt": "a sign", "text_content": "STOP"},
        {"category": "Knowledge_Reasoning", "id": "000", "prompt": "a cell"},
    ]
    (folder / "oneig.json").write_text(json.dumps(rows))
    (folder / "color_val.txt").write_text("a red cup and a blue bowl\na green hat\na white dog\n")


class Log:
    """Lines of a file, and the number of the line after whose writing the process is killed.

    `ready` says whether it may be: what came before is saved on a thread meanwhile.
    """

    def __init__(self, path: Path, last: int = 0, ready: Callable[[], bool] = lambda: True):
        self.path, self.last, self.ready, self.written = path, last, ready, 0

    def add(self, line: str) -> None:
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.written += 1
        if self.written == self.last:
            while not self.ready():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


class Drawer:
    """Draws the same small picture for everything."""

    def __init__(self, log: Log):
        self.log, self.settings, self.style = log, Settings(), PLAIN

    def run(self, records, *, samples=1):
        return [self.draw(record, n) for record in records for n in range(samples)]

    def draw(self, request, sample):
        record = getattr(request, "record", request)
        self.log.add(f"{record.id} {sample}")
        step = Step("image", "image", image=np.full((8, 8, 3), 25 * sample, np.uint8))
        return Trace(record.id, record.source, (step,), sample=sample)


class Judge:
    """Answers as a suite's judge does."""

    name = "stand-in"

    def __init__(self, suite: str, log: Log, answer: str | None = None):
        self.suite, self.log, self.answer = suite, log, answer

    def __call__(self, question, attempt):
        self.log.add(question.key)
        if self.answer is not None:
            return Reply(self.answer)
        if self.suite == "tiif":
            return Reply("\n".join("yes" for _ in question.item.raw["yn_question_list"]))
        return Reply(ANSWERS[self.suite])


def arguments_of(suite: str, prompts: Path, out: Path, *more: str):
    """The command line of a run that draws, and asks one question after the other."""
    flags = ["--suite", suite, "--prompts", str(prompts / FILES[suite]), "--out", str(out)]
    flags += ["--limit", str(LIMIT), "--workers", "1", "--batch", "1", *more]
    return benchmark.parser().parse_args(flags)


def run(patch, suite, prompts, out, *more, draws=0, asks=0, answer=None):
    """`benchmark` with the stand-ins in the place of model and judge.

    Args:
      patch: sets an attribute of an object (of pytest, or `setattr`).
      draws, asks: picture and question whose beginning is the process's end; 0 for none. A picture
        ends it once the first item's are saved.
      answer: of the judge, instead of a right one.
    """
    first = SUITES[suite].places(SUITES[suite].load(prompts / FILES[suite])[0]) if draws else ()

    def saved():
        return all((out / "images" / place).is_file() for place in first)

    drawn = Log(out.with_suffix(".drawn"), draws, saved)
    patch(benchmark, "from_flags", lambda _: Drawer(drawn))
    patch(benchmark, "told", lambda arguments: arguments.checkpoint)
    judge = Judge(suite, Log(out.with_suffix(".asked"), asks), answer)
    patch(benchmark, "make_judge", lambda _: judge)
    benchmark.run(arguments_of(suite, prompts, out, *more))
    return json.loads((out / "report.json").read_text())


def child(suite: str, prompts: Path, out: Path, draws: int, asks: int) -> None:
    """`run` in a process that never starts JAX."""
    benchmark.jax.process_index, benchmark.jax.process_count = lambda: 0, lambda: 1
    run(setattr, suite, prompts, out, "--checkpoint", "x", draws=draws, asks=asks)
