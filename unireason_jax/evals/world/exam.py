"""One evaluation of the world under way: it draws requests, runs the model, and counts."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals.rates import Rate, mean_of_groups, wilson
from unireason_jax.evals.world.report import Row, Section
from unireason_jax.inference.conversation import Grow, Request
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Trace
from unireason_jax.world import tasks
from unireason_jax.world.scenes import CELL

_GROUP = 1_000_000
Example = dict[str, Any]
Groups = dict[str, list[bool]]
Advance = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Part:
    """What one part of the evaluation found.

    Attributes:
      sections: its tables.
      headline: the few rates to read first, by name.
      outcomes: by name, verdicts in the order of the requests by group (tag, domain, operation);
        two models that were asked the same requests are compared request by request.
      shown: judged traces to draw.
    """

    sections: Sequence[Section] = ()
    headline: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    outcomes: Mapping[str, Groups] = dataclasses.field(default_factory=dict)
    shown: Sequence[Trace] = ()


CONVERSATIONS = ("refine_t2i", "irg_improving_full")


class Exam:
    """The model under evaluation, with counters.

    Args:
      reasoner: the model; its settings decide how it is sampled.
      seed: of the requests.
      conversation: template of plan, draft and refinement: the one the model was trained on.
      advance: called with the cost of what was just finished, in images.
    """

    def __init__(
        self,
        reasoner: Reasoner,
        seed: int,
        advance: Advance = lambda cost: None,
        conversation: str = CONVERSATIONS[0],
    ):
        self.reasoner, self.seed, self.advance = reasoner, seed, advance
        self.conversation = conversation
        self.side = reasoner.settings.size[0] // CELL
        self.conversations = self.images = 0
        self._seen_wording: dict[str, set[str]] = {}

    def requests(
        self, task: str, groups: Sequence[str | None], count: int, **split: Any
    ) -> list[Example]:
        """`count` examples of a task per group.

        A group with so few wordings that none is held out gives seen ones; `note` says so.
        """
        found, seen = requests(self.seed, self.side, task, groups, count, **split)
        self._seen_wording.setdefault(task, set()).update(seen)
        return found

    def note(self, task: str) -> str:
        """A sentence about groups without held-out wordings, empty if there are none."""
        groups = sorted(self._seen_wording.get(task, ()))
        if not groups:
            return ""
        names = ", ".join(groups)
        return f" The wording of {names} is (partly) seen in training, the pictures are not."

    def traces(
        self,
        template: str,
        requests: Iterable[Example],
        cost: float,
        *,
        samples: int = 1,
        grow: Grow | None = None,
    ) -> list[Trace]:
        """Conversations of a template over requests, the samples of a request together.

        `grow` lets a conversation go on as the model says, see `inference.conversation.Request`.
        """
        records: list = [TEMPLATES[template](each, self.reasoner.style) for each in requests]
        if grow:
            records = [Request(record, grow) for record in records]
        out = self.reasoner.run(
            records, samples=samples, progress=lambda count: self.advance(count * cost)
        )
        self.conversations += len(out)
        self.images += sum(len(trace.images) for trace in out)
        return out


def requests(
    seed: int, side: int, task: str, groups: Sequence[str | None], count: int, **split: Any
) -> tuple[list[Example], set[str]]:
    """`count` examples of a world task per group, and the groups whose wording training has seen.

    A pure function: the same requests for every model. A group with so few wordings that none is
    held out gives seen ones.
    """
    out, seen = [], set()
    for place, group in enumerate(groups):
        for number in range(count):
            options = {"tag": group, "side": side, **split}
            index = place * _GROUP + number
            try:
                found = tasks.example(seed, index, task, **options)
            except ValueError:
                if not split.get("held_out"):
                    raise
                found = tasks.example(seed, index, task, **options | {"held_out": False})
                seen.add(str(group))
            out.append(found)
    return out, seen


def asked(example: Example, *keys: str, **more: Any) -> Example:
    """The part of an example that a model gets to see."""
    kept = ("id", "tag", "op", "domain", *keys)
    return {key: example[key] for key in kept if key in example} | more


def table(columns: Mapping[str, Groups], mean: str) -> tuple[list[Row], dict[str, Rate]]:
    """Rows by group with Wilson intervals and a last row `mean`; and the means by column."""
    means = {name: mean_of_groups(groups) for name, groups in columns.items()}
    names = list(dict.fromkeys(group for groups in columns.values() for group in groups))
    rows = [
        (group, tuple(wilson(groups.get(group, ())) for groups in columns.values()))
        for group in names
    ]
    return [*rows, (mean, tuple(means.values()))], means
