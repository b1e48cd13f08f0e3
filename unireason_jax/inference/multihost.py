"""A reasoner whose requests the processes of a job share; each of them gets all conversations."""

import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from unireason_jax.data.records import Record
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.reasoner import Progress, Reasoner
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.pods import pod
from unireason_jax.storage import atomic, paths

_SLOWEST = 30 * 24 * 3600.0  # seconds that processes wait for each other's share


class SharedReasoner:
    """Takes the place of a reasoner in every process of a job, which all make the same calls.

    A conversation depends on its id and its sample alone, so the traces are those of one process.

    Args:
      reasoner: this process's own.
      folder: that all processes see; what passes through it is removed again.
    """

    def __init__(self, reasoner: Reasoner, folder: epath.PathLike):
        self.reasoner, self.folder = reasoner, paths.of(folder)
        self.settings, self.style = reasoner.settings, reasoner.style
        if jax.process_index() == 0:
            for left in self.folder.glob("traces.*.npz"):  # by a job that was killed
                left.unlink()
        pod.gather("shared reasoner", None)

    def run(
        self,
        requests: Iterable[Record | Request],
        *,
        samples: int = 1,
        progress: Progress | None = None,
    ) -> list[Trace]:
        """Traces as `Reasoner.run` gives them; every process draws its share."""
        requests, count = list(requests), jax.process_count()
        if count == 1:
            return self.reasoner.run(requests, samples=samples, progress=progress)
        mine = requests[jax.process_index() :: count]
        own = self.reasoner.run(mine, samples=samples, progress=progress) if mine else []
        atomic.write_bytes(self._part(jax.process_index()), packed(own))
        pod.gather("shared traces", None, timeout=_SLOWEST)
        parts = [unpacked(self._part(number).read_bytes()) for number in range(count)]
        pod.gather("shared traces read", None, timeout=_SLOWEST)
        self._part(jax.process_index()).unlink()
        if progress:
            progress((len(requests) - len(mine)) * samples)
        return [
            trace
            for place in range(len(requests))
            for trace in parts[place % count][place // count * samples :][:samples]
        ]

    def _part(self, number: int) -> epath.PathLike:
        return self.folder / f"traces.{number}.npz"


def packed(traces: Sequence[Trace]) -> bytes:
    """Traces as the bytes of an npz file: images as they are, the rest as JSON."""
    images: dict[str, np.ndarray] = {}
    told = []
    for number, trace in enumerate(traces):
        values = vars(trace) | {"steps": [dict(vars(step)) for step in trace.steps]}
        for place, step in enumerate(values["steps"]):
            if step["image"] is not None:
                images[f"{number}_{place}"] = step["image"]
            step["image"] = None
        told.append(values)
    buffer = io.BytesIO()
    np.savez(buffer, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **images)
    return buffer.getvalue()


def unpacked(data: bytes) -> list[Trace]:
    """The traces of `packed`."""
    with np.load(io.BytesIO(data)) as file:
        told: list[dict[str, Any]] = json.loads(file["told"].tobytes())
        found = []
        for number, values in enumerate(told):
            steps = [Step(**step) for step in values.pop("steps")]
            for place, step in enumerate(steps):
                if (name := f"{number}_{place}") in file:
                    steps[place] = dataclasses.replace(step, image=file[name])
            found.append(Trace(**values, steps=tuple(steps)))
    return found
