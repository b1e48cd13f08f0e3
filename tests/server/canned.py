"""A model that says and draws what it is told to, for the tests of what is around it."""

import time

import numpy as np

from tests.inference import toy
from unireason_jax.inference.continuous_batching import News
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Step, Trace

PLAN, REFLECTION = "a red circle , left", "the circle is blue"
SIDE = 24


def reasoner() -> Reasoner:
    """The toy's tokenizer and sizes without its weights: requests are checked, nothing is drawn."""
    return Reasoner(toy.config(), None, toy.spec(), toy.settings())


def picture(seed: int) -> np.ndarray:
    """uint8 [24, 24, 3] of one colour."""
    return np.full((SIDE, SIDE, 3), (seed % 200, 90, 160), np.uint8)


class Guest:
    """A conversation that says its plan word by word, draws, criticises and draws again."""

    def __init__(self, request, tell):
        self.request, self.tell = request, tell
        self.steps = list(request.told)
        told = {step.role for step in self.steps}
        self.events = self._events(told)

    def _events(self, told):
        for role, content in self._made():
            if role in told:
                continue
            if isinstance(content, str):
                for number, word in enumerate(content.split(" ")):
                    yield News("words", role, text=f" {word}" if number else word)
                step = Step("text", role, text=content, forwards=5, seed=1, content=content)
            else:
                yield News("preview", role, image=content // 2, share=0.5)
                step = Step("image", role, image=content, forwards=8, seed=2)
            self.steps.append(step)
            yield News("step", role, step=step)
        asked = Step("text", "user", text=self.request.record.id, given=True)
        ended = Trace(self.request.record.id, "canned", (asked, *self.steps), ended="stop")
        yield News("end", trace=ended)

    def _made(self):
        if self.request.record.source == "vqa":
            return [("answer", "it is red")]
        seed = self.request.seed
        words = next((s.text for s in self.steps if s.role == "reflection"), REFLECTION)
        drawn = [("plan", PLAN), ("draft", picture(seed)), ("reflection", words)]
        return [*drawn, ("refined", picture(seed + len(words)))]


class Live:
    """In the place of `inference.continuous_batching.Live`.

    Attributes:
      pause: seconds that a piece of work takes.
      fault: what ends every conversation, or None.
    """

    def __init__(self, rows: int = 4, pause: float = 0.0):
        self.rows, self.pause, self.guests, self.most = rows, pause, [], 0
        self.fault: Exception | None = None

    def add(self, request, sample, settings, tell, previews=0):
        guest = Guest(request, tell)
        self.guests.append(guest)
        self.most = max(self.most, len(self.guests))
        return guest

    def drop(self, guest):
        if guest in self.guests:
            self.guests.remove(guest)

    def work(self):
        time.sleep(self.pause)
        for guest in list(self.guests):
            news = News("error", error=self.fault) if self.fault else next(guest.events)
            if news.kind in ("end", "error"):
                self.guests.remove(guest)
            guest.tell(news)
