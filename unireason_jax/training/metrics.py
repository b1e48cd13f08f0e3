"""What a run measures of itself: losses, speed, utilisation, memory and where the time went."""

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.data.rows import COUNTS, count
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.storage import paths
from unireason_jax.storage.mirror import Mirror

# Dense bf16 FLOP/s of one JAX device, from the vendors' data sheets (a tpu7x chip is two devices).
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}
_SLOW = 2.0  # seconds of a step from which on no other is queued behind it
LAST = ("lr", "skipped", "consecutive_skips", "param_norm")  # reported as they are, not averaged


def batch_counts(batch: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Useful tokens and visible pairs of a packed numpy batch, padding left out.

    Returns:
      {"text", "vit", "latent": tokens, "labels": text tokens with a loss, "pairs": query-key pairs
      the mask allows, "vit_pairs": pairs inside the vision tower}.
    """
    rows = [dict(zip(batch, arrays)) for arrays in zip(*batch.values())]
    return dict(zip(COUNTS, sum(map(count, rows)).tolist()))


def train_flops(
    model: ModelConfig, counts: Mapping[str, int], *, und_backward: float = 2.0
) -> float:
    """Floating-point operations one training step needs, matmuls and attention only.

    Each token goes through one expert; recomputation is not counted (so this is the numerator of
    MFU), nor is padding. A forward pass costs 2 per weight and token and 4 per head feature and
    visible pair; a backward pass twice that, of weights beside adapters once (these themselves are
    not counted, and the vision tower then has none).

    Args:
      model: the model's shape.
      counts: result of `batch_counts`.
      und_backward: backward cost of the understanding side in forwards: 2 trained, 1 frozen but
        passed through, 0 detached.
    """
    llm = model.llm
    attention = llm.width * llm.head_dim * (2 * llm.heads + 2 * llm.kv_heads)
    layer = attention + 3 * llm.width * llm.mlp
    und, tower = 2.0 * (counts["text"] + counts["vit"]) * layer * llm.layers, 0.0
    if model.vit is not None:
        vit = model.vit
        weights = vit.layers * (4 * vit.width**2 + 2 * vit.width * vit.mlp)
        weights += 3 * vit.patch**2 * vit.width + vit.width * llm.width + llm.width**2
        tower += 2.0 * counts["vit"] * weights
        tower += 4.0 * counts["vit_pairs"] * vit.width * vit.layers
    gen = 2.0 * counts["latent"] * layer * llm.layers
    if isinstance(model, JanusConfig):
        codes = model.codes
        gen += 2.0 * counts["latent"] * llm.width * (codes.width + 2 * llm.width + codes.size)
    else:
        gen += 2.0 * counts["latent"] * (2 * model.latent.features + 256 + llm.width) * llm.width
    head = 2.0 * counts["labels"] * llm.width * llm.vocab
    pairs = 4.0 * counts["pairs"] * llm.heads * llm.head_dim * llm.layers
    if model.lora:
        return und * (1 + min(und_backward, 1.0)) + tower + 2.0 * (gen + head) + 3.0 * pairs
    return (und + tower) * (1 + und_backward) + 3.0 * (gen + head + pairs)


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of one device by its data sheet; None where there is none, as for CPUs."""
    device = device or jax.local_devices()[0]
    kinds = sorted(PEAK_FLOPS, key=len, reverse=True)
    return next((PEAK_FLOPS[kind] for kind in kinds if kind in device.device_kind), None)


def measured_flops(size: int, dtype: Any, *, calls: int) -> float:
    """FLOP/s of one device on the best of some products of [size, size] matrices."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)  # zeros and ones run faster
    product = jax.jit(jnp.dot).lower(matrix, matrix).compile()
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def memory() -> dict[str, float]:
    """GiB in use: resident host memory, and the peak of the fullest local device if it tells."""
    gib = 1 << 30
    try:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # not Linux: the peak instead, in kilobytes
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"memory/host_gib": resident / gib}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return found | ({"memory/device_gib": max(peaks) / gib} if peaks else {})


class Clock:
    """Seconds by phase; what no phase claims is the step's own."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to a phase: data, compile, checkpoint, eval."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    def split(self) -> tuple[float, dict[str, float]]:
        """(seconds since the last call, seconds by phase with "step"), and starts anew."""
        total = time.perf_counter() - self.began
        spent = self.seconds | {"step": total - sum(self.seconds.values())}
        self.seconds, self.began = {}, time.perf_counter()
        return total, spent


def phases(report: Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase in a report of `Meter`."""
    split = {k.removeprefix("time/"): v for k, v in report.items() if k.startswith("time/")}
    split.pop("total", None)
    return split


class Profiler:
    """Records steps on process 0 under <workdir>/profile: a window of steps, and more on request.

    The file <workdir>/profile_steps with a number in it asks for so many steps; it goes when they
    begin. A run that resumes inside the window records the rest of it.

    Args:
      window: steps [first, end); an empty one records none.
      workdir: the run's directory.
      port: of every host, at which a profiler (xprof, TensorBoard) may ask too; 0 for none.
    """

    def __init__(self, window: tuple[int, int], workdir: epath.PathLike, port: int = 0):
        self._window, self._mirror = window, Mirror(paths.of(workdir) / "profile")
        self._request = paths.of(workdir) / "profile_steps"
        self._running = False
        self._server = jax.profiler.start_server(port) if port else None

    def look(self, step: int) -> None:
        """Takes in a request for the steps from this one on, if there is one."""
        if self._running or jax.process_index() != 0 or not self._request.exists():
            return
        asked = self._request.read_text().strip()
        if not asked:
            return  # it is just being written
        self._request.unlink(missing_ok=True)
        if not asked.isdecimal() or not int(asked):
            print(f"{self._request}: {asked[:40]!r} is no number of steps to record", flush=True)
            return
        self._window = (step, step + int(asked))
        print(f"recording {int(asked)} steps from step {step} on: {self._mirror.place}", flush=True)

    def at(self, step: int) -> None:
        """Starts or stops recording, as this step is the first or the last of the window."""
        wanted = self._window[0] <= step < self._window[1] and jax.process_index() == 0
        if wanted and not self._running:
            jax.profiler.start_trace(str(self._mirror.local))
            self._running = True
        elif not wanted:
            self.close()

    def close(self) -> None:
        """Stops recording and writes what was recorded."""
        if self._running:
            jax.profiler.stop_trace()
            self._mirror.close()
            self._running = False


@contextlib.contextmanager
def heartbeat(what: str, *, every: float = 10.0) -> Iterator[None]:
    """Prints "compiling <what> ... n s" while its body runs, and the time it took at the end.

    Only the first process prints.
    """
    if jax.process_index() != 0:
        yield
        return
    done, start = threading.Event(), time.perf_counter()

    def beat() -> None:
        while not done.wait(every):
            print(f"compiling {what} ... {time.perf_counter() - start:.0f} s", flush=True)

    thread = threading.Thread(target=beat, name="compile heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    print(f"compiled {what} in {time.perf_counter() - start:.1f} s", flush=True)


class Meter:
    """Means of step metrics between two log lines, and speed over the same steps.

    Device values are fetched only when a line is due or a checkpoint is written.

    Args:
      flops_per_second: peak of all devices together, None when not known.
    """

    def __init__(self, flops_per_second: float | None):
        self.peak = flops_per_second
        self.clock = Clock()
        self._is_slow, self._waited = False, 0.0
        self._pending: list[dict[str, jax.Array]] = []
        self._steps, self._sums = 0, {}
        self._work: dict[str, float] = {}
        self._timed = 0

    def add(self, metrics: dict[str, jax.Array], counts: Mapping[str, int], flops: float) -> None:
        """Takes in one step: its device scalars, and the global tokens and FLOPs it stood for."""
        self._pending.append(metrics)
        self._timed += 1
        for name in ("text", "vit", "latent"):
            self._work[name] = self._work.get(name, 0) + counts[name]
        self._work["flops"] = self._work.get("flops", 0.0) + flops

    def wait(self) -> None:
        """Waits until the devices have little left to do, before they are given another step.

        A queued step cannot be taken back, so whoever stops the run waits for it. One is left
        unfinished, to keep the devices busy while the next is prepared; none where steps are slow,
        as then the host's milliseconds are nothing beside a step that is waited for.
        """
        unfinished = 0 if self._is_slow else 1
        if len(self._pending) > unfinished:
            began = time.perf_counter()
            jax.block_until_ready(self._pending[-1 - unfinished])
            spent = time.perf_counter() - began
            self._is_slow = spent > _SLOW
            self._waited += spent

    def state(self) -> dict[str, Any]:
        """JSON state of the unfinished interval, so that a resumed run reports the same means."""
        began = time.perf_counter()
        found = jax.device_get(self._pending)
        self._waited += time.perf_counter() - began
        for metrics in found:
            for name, value in metrics.items():
                before = 0.0 if name in LAST else self._sums.get(name, 0.0)
                self._sums[name] = before + float(value)
        self._steps += len(self._pending)
        self._pending = []
        return {"steps": self._steps, "sums": dict(self._sums)}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a state of `state`; None starts empty."""
        self._steps = state["steps"] if state else 0
        self._sums = dict(state["sums"]) if state else {}

    def report(self) -> dict[str, float]:
        """Everything about the interval that ends now; starts the next one."""
        self.state()
        steps = max(self._steps, 1)
        out = {k: v if k in LAST else v / steps for k, v in self._sums.items()}
        total, spent = self.clock.split()
        working = max(spent["step"] + spent.get("data", 0.0), 1e-9)
        if self._timed:
            out["speed/steps_per_s"] = self._timed / working
            out["speed/host_s"] = max(working - self._waited, 0.0) / self._timed
            for name in ("text", "vit", "latent"):
                out[f"speed/{name}_tokens_per_s"] = self._work[name] / working
            if self.peak:
                out["speed/mfu"] = self._work["flops"] / working / self.peak
        out |= {f"time/{phase}": seconds for phase, seconds in spent.items()}
        out["time/total"] = total
        self._steps, self._sums, self._work, self._timed, self._waited = 0, {}, {}, 0, 0.0
        return out | memory()
