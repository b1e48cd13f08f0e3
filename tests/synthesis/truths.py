"""What is not true of a record that a recipe made, by the exact world that played its models."""

from collections.abc import Callable, Iterator

from tests.synthesis import agents
from unireason_jax.synthesis.programs import no_leak
from unireason_jax.world.edits import NO_CHANGE
from unireason_jax.world.language import parse_edit, parse_plan, parse_reflection
from unireason_jax.world.renderer import render
from unireason_jax.world.scenes import make_scene
from unireason_jax.world.steps import COMPLETE, CONFLICT

Claim = tuple[str, bool]


class View:
    """A record, the pictures that it names, and the example of the world behind it."""

    def __init__(self, world, out, record):
        self.world, self.out, self.record = world, out, record
        self.raw = list(world.truths.values())[int(record["id"].split("-")[1])]

    def picture(self, name):
        return agents.picture(self.out, name)

    def objects(self, name):
        return sorted(self.world.objects(self.picture(name)))

    def shows(self, name):
        """Whether a picture is what was asked for."""
        return self.world.is_right(self.raw, self.picture(name))

    def away(self, name):
        """By how many edits a picture is wrong."""
        return len(self.world.repairs(self.raw, self.picture(name)))

    def plans(self, text):
        """Whether a plan is one of what was asked for."""
        scene = make_scene(parse_plan(text, agents.SIDE).objects, agents.SIDE)
        return self.world.is_right(self.raw, render(scene))


def _reason_t2i(view: View) -> Iterator[Claim]:
    yield "picture", view.shows(view.record["image"])
    yield "think", view.record["think"] == view.raw["think"]
    yield "domain", view.record["domain"] == view.raw["domain"]


def _reason_edit(view: View) -> Iterator[Claim]:
    yield "picture", view.shows(view.record["output_image"])
    yield "think", view.record["think"] == view.raw["think"]


def _refined(view: View) -> Iterator[Claim]:
    """Of `refine_t2i`, `refine_edit` and `reflect`, whose reflections are turns of a controller."""
    record = view.record
    if record.get("explanation"):  # `reflect` plans nothing
        yield "plan", view.plans(record["explanation"])
    now = record["draft"]
    for step in record["rounds"]:
        seen, edit = parse_reflection(_thought(step["reflection"]), agents.SIDE)
        yield "reflection", sorted(seen) == view.objects(now) and edit != NO_CHANGE
        yield "round", view.away(step["image"]) < view.away(now)
        now = step["image"]
    seen, edit = parse_reflection(_thought(record["final_reflection"]), agents.SIDE)
    yield "last words", sorted(seen) == view.objects(now) and edit == NO_CHANGE
    yield "picture", view.shows(now)


def _thought(text: str) -> str:
    """What is thought in a turn of a controller; other reflections are nothing else."""
    return text.partition("[THINKING] ")[2].partition("\n")[0] or text


def _process(view: View) -> Iterator[Claim]:
    steps = view.record["steps"]
    yield "count", 2 <= len(steps) <= 5
    for step in steps:
        told = sorted(parse_plan(step["des"], agents.SIDE).objects)
        yield "step", told == view.objects(step["image"])
    yield "last words", steps[-1]["inspect"] == COMPLETE
    yield "picture", view.shows(steps[-1]["image"])


def _process_conflict(view: View) -> Iterator[Claim]:
    last, truth = view.record["steps"][-1], view.raw["steps"][len(view.record["steps"]) - 1]
    conflict = "refine" in last
    yield "verdict", conflict == (truth["refine"] is not None)
    yield "analysis", (last["inspect"] == CONFLICT) == conflict
    told = sorted(parse_plan(truth["des"], agents.SIDE).objects)
    if conflict:
        yield "correction", parse_edit(last["refine"], agents.SIDE) != NO_CHANGE
        yield "repair", told == view.objects(last["refined"])
    else:
        yield "picture", told == view.objects(last["image"])


def _process_alignment(view: View) -> Iterator[Claim]:
    record = view.record
    wrong = "refine" in record
    yield "picture", view.shows(record["image"]) != wrong
    yield "analysis", record["inspect"] == (CONFLICT if wrong else COMPLETE)
    if wrong:
        seen, edit = parse_reflection(record["refine"], agents.SIDE)
        yield "remedy", sorted(seen) == view.objects(record["image"]) and edit != NO_CHANGE
        yield "repair", view.shows(record["refined"])


def _irg(view: View) -> Iterator[Claim]:
    record = view.record
    if "think" in record:
        yield "think", view.plans(record["think"])
    if "improved" in record:
        yield "picture", view.shows(record["improved"])
    if record["task"] == "irg_initial_full":
        yield "picture", view.shows(record["image"])
    elif "image" in record:
        yield "weak", not view.shows(record["image"])
    if "improve" in record:
        guidance = record["improve"].partition("Modification Guidance\n")[2].splitlines()[0]
        yield "guidance", parse_edit(guidance, agents.SIDE) != NO_CHANGE


def _uni_edit(view: View) -> Iterator[Claim]:
    record = view.record
    yield "hidden", no_leak(record["instruction"], record["answer"])
    yield "answer", record["answer"] == view.raw["answer"]
    yield "picture", view.shows(record["output_image"])


_CLAIMS: dict[str, Callable[[View], Iterator[Claim]]] = {
    "reason_t2i": _reason_t2i,
    "reason_edit": _reason_edit,
    "refine_t2i": _refined,
    "refine_edit": _refined,
    "reflect": _refined,
    "process": _process,
    "process_conflict": _process_conflict,
    "process_alignment": _process_alignment,
    "irg": _irg,
    "uni_edit": _uni_edit,
}


def untrue(recipe, world, out, record) -> list[str]:
    """The parts of a record that are not true."""
    view = View(world, out, record)
    return sorted({what for what, good in _CLAIMS[recipe](view) if not good})
