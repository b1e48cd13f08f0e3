"""A conversation with a model that goes on, and the news of one while it is on its way."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from unireason_jax.inference.continuous_batching import Live, News
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.engine import Engine
from unireason_jax.inference.gradual_drawing import STEPS
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Trace

OnText = Callable[[str, str], Any]
OnImage = Callable[[str, np.ndarray, float], Any]


@dataclasses.dataclass(frozen=True)
class Listener:
    """What is called while a conversation is on its way.

    Attributes:
      on_text: (role, new words) as a text is written.
      on_image: (role, uint8 [H, W, 3], share of the drawing that is done); 1 is the image itself.
      previews: steps of a drawing after which `on_image` sees it, at least 4; 0 shows it complete.
    """

    on_text: OnText | None = None
    on_image: OnImage | None = None
    previews: int = STEPS

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return self.on_text is not None or self.on_image is not None

    def finish(self, engine: Engine, request: Request, sample: int, settings: Settings) -> Trace:
        """Finishes a conversation of `Reasoner.prepare`, and tells of it."""
        heard: list[News] = []

        def tell(news: News) -> None:
            heard.append(news)
            if news.kind == "words" and self.on_text:
                self.on_text(news.role, news.text)
            if news.kind == "preview" and self.on_image:
                self.on_image(news.role, news.image, news.share)
            if news.kind == "step" and news.step.kind == "image" and self.on_image:
                self.on_image(news.role, news.step.image, 1.0)

        live = Live(engine, 1)
        live.add(request, sample, settings, tell, self.previews if self.on_image else 0)
        while live.guests:
            live.work()
        if heard[-1].error is not None:
            raise heard[-1].error
        return heard[-1].trace


class Chat:
    """A conversation that goes on: what is said next is about the last picture.

        chat = model.chat(on_text=lambda role, words: print(words, end=""))
        chat.say("a red circle left of a blue square")
        chat.say("make the circle green")
        chat.ask("what is left of the square ?")

    Args:
      reasoner: the model.
      **options: of every `say` and `ask`, see `Reasoner.ask`.

    Attributes:
      trace: the whole of it; None before anything was said.
    """

    def __init__(self, reasoner: Any, **options: Any):
        self.reasoner, self.options = reasoner, options
        self.trace: Trace | None = None

    @property
    def image(self) -> np.ndarray | None:
        """The last picture, uint8 [H, W, 3]; None before there is one."""
        return self.trace.image if self.trace else None

    def say(self, text: str, image: Any = None, **options: Any) -> Trace:
        """Draws a picture, or changes the last one or the one that is given.

        Returns:
          What came of this; `trace` holds all.

        Raises:
          ValueError: as `Reasoner.ask`; the conversation stays as it was.
        """
        shown = self.image if image is None else image
        verb = "generate" if shown is None else "edit"
        given = () if shown is None else (shown,)
        return self._go_on(verb, (*given, text), options, image is None)

    def ask(self, question: str, image: Any = None, **options: Any) -> Trace:
        """Answers a question about the last picture or the one that is given, as `say`."""
        shown = self.image if image is None else image
        return self._go_on("ask", (shown, question), options, image is None)

    def _go_on(self, verb: str, given: tuple, options: dict[str, Any], same: bool) -> Trace:
        """Calls a verb of the model; `same` where it is about the picture that was there."""
        made = getattr(self.reasoner, verb)(*given, **(self.options | options))
        if self.trace is None:
            self.trace = made
        else:
            self.trace = self.trace.then(made) if same else _joined(self.trace, made)
        return made

    def _repr_png_(self) -> bytes | None:
        """All of it as a strip: what a notebook shows."""
        return self.trace._repr_png_() if self.trace else None


def _joined(first: Trace, later: Trace) -> Trace:
    """Two conversations as one, with the picture that the later one begins with."""
    joined = first.then(later)
    return dataclasses.replace(joined, steps=(*first.steps, *later.steps))
