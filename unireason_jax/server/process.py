"""One server from its socket to its end."""

import argparse
import collections
import contextlib
import dataclasses
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import uvicorn

from unireason_jax.inference import default_preset
from unireason_jax.inference.continuous_batching import Live
from unireason_jax.inference.gradual_drawing import shortened
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.server import app
from unireason_jax.server.app import Service
from unireason_jax.server.metrics import Metrics
from unireason_jax.server.model_names import Models
from unireason_jax.server.orders import Limits
from unireason_jax.server.replicas import Leader, follow
from unireason_jax.server.scheduler import Scheduler

SLOTS = 256
_MEGABYTE = 1 << 20
_BACKLOG = 1024


class Server(uvicorn.Server):
    """Uvicorn, told when it begins to end.

    Args:
      config: of Uvicorn.
      scheduler: takes nothing more from the first signal on.
    """

    def __init__(self, config: uvicorn.Config, scheduler: Scheduler):
        super().__init__(config)
        self.scheduler = scheduler
        self.told: collections.Counter[int] = collections.Counter()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Takes a signal to this process."""
        self.end(0)

    def end(self, process: int) -> None:
        """A signal to a process of the job: its first lets what was taken end, its second ends at
        once. One to every process is one."""
        self.told[process] += 1
        self.force_exit = max(self.told.values()) > 1
        self.scheduler.close(drain=not self.force_exit)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
      ValueError: it is taken, or not one of this machine.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(kind, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        told = f"cannot listen at {host}:{port} ({error.strerror or error}); give another --port"
        raise ValueError(f"{told}, or --port 0 for a free one.") from None
    return found


def build(
    reasoner: Reasoner,
    *,
    rows: int,
    key: str = "",
    queue: int = 64,
    seconds: float = 600,
    megabytes: int = 32,
    memory: int = 512,
    pixels: int = 4096 * 4096,
    live: Live | Leader | None = None,
) -> tuple[Any, Scheduler]:
    """The application, and the thread behind it, not yet started."""
    live = live or Live(reasoner.engine, rows, slots=SLOTS)
    scheduler = Scheduler(live, queue=queue, seconds=seconds, metrics=Metrics())
    service = Service(Models(reasoner), scheduler, Limits(pixels=pixels))
    sizes = {"body": megabytes * _MEGABYTE, "memory": memory * _MEGABYTE}
    return app.make(service, key=key, **sizes), scheduler


def serve(
    reasoner: Reasoner,
    taken: socket.socket,
    *,
    key: str,
    rows: int,
    about: str,
    given: argparse.Namespace,
) -> None:
    """Serves at a socket until a signal comes; prints the address once it answers.

    In a job of several processes the first one does that, and the others `follow` at its side.
    """
    live: Live | Leader = Live(reasoner.engine, rows, slots=SLOTS)
    if jax.process_count() > 1:
        live = Leader(live)
    names = ("queue", "seconds", "megabytes", "memory", "pixels")
    limits = {name: getattr(given, name) for name in names}
    application, scheduler = build(reasoner, rows=rows, key=key, live=live, **limits)
    config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off")
    server = Server(config, scheduler)
    if isinstance(live, Leader):
        live.listen(server.end)
    if given.warm:
        warm(reasoner, live)
    scheduler.start()
    threading.Thread(target=_announce, args=(server, taken, about, given.open), daemon=True).start()
    server.run(sockets=[taken])
    scheduler.close(drain=False)
    scheduler.join(60)
    if isinstance(live, Leader):
        live.end()


def assist(reasoner: Reasoner, rows: int) -> None:
    """What another process than the first of a job does while that one serves."""
    follow(Live(reasoner.engine, rows, slots=SLOTS))


def warm(reasoner: Reasoner, live: Live | Leader) -> None:
    """Draws and edits a picture, so that the programs for it are compiled."""
    started = time.perf_counter()
    for verb in ("generate", "edit"):
        _, preset, settings = default_preset.chosen(reasoner, verb, None)
        white = np.full((*settings.size, 3), 255, np.uint8)
        image = {"image": white} if preset.needs_image else {}
        request = preset.request("a", style=reasoner.style, **image)
        flow, refine = shortened(settings.flow), settings.refine and shortened(settings.refine)
        drawing = {"flow": flow, "refine": refine, "learned_stop": False}
        settings = dataclasses.replace(settings, **drawing)
        live.add(request, 0, settings, lambda news: None)
    while live.guests:
        live.work()
    print(f"warm after {time.perf_counter() - started:.1f} s", file=sys.stderr)


def _announce(server: Server, taken: socket.socket, about: str, browser: bool) -> None:
    """Prints the address as soon as the server answers there."""
    while not server.started and not server.should_exit:
        time.sleep(0.02)
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    print(f"serving {about} at {address}", flush=True)
    if browser:
        with contextlib.suppress(webbrowser.Error):
            webbrowser.open(address)


@contextlib.contextmanager
def running(reasoner: Reasoner, **options: Any) -> Iterator[tuple[str, Scheduler]]:
    """A server in a thread of this process, for tests and benchmarks: its address, its scheduler.

    Args:
      reasoner: the model.
      **options: of `build`.
    """
    application, scheduler = build(reasoner, **options)
    taken = listen("127.0.0.1", 0)
    config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    scheduler.start()
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}", scheduler
    finally:
        scheduler.close(drain=False)
        server.should_exit = True
        thread.join(20)
        scheduler.join(20)
        taken.close()
