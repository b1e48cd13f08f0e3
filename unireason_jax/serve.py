"""`unireason serve`: a trained model behind OpenAI's protocol, and a page to try it in a browser.

    unireason serve --checkpoint notebooks/demo
    curl http://127.0.0.1:8000/v1/images/generations -H 'Content-Type: application/json' \\
        -d '{"model": "unireason:refine", "prompt": "a red circle above a blue square"}'

    GET  /                         the page
    GET  /v1/models                `unireason`, and presets as `unireason:NAME`
    POST /v1/chat/completions      texts and pictures in and out, streamed as they are made
    POST /v1/images/generations    a picture of a prompt
    POST /v1/images/edits          an edit of a picture
    GET  /health, /metrics         for whoever watches it (Prometheus)

Requests join those that are on their way at the next token, and a client that leaves frees its
place. A result depends on the request alone, not on who else is served. Bodies may hold the options
of `unireason generate` beside OpenAI's fields. Ctrl-C or SIGTERM ends it after the requests that it
has taken. A key in the environment variable UNIREASON_KEY, or in --key_file, is asked for.

A model that one host does not hold is served by several, such as all of a TPU slice: started on
each of them, `serve` spreads the weights over all their devices, and process 0 answers. A signal to
any of them ends all.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from unireason_jax.inference import default_preset
from unireason_jax.inference.load import add_flags, from_flags, told
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.values import number, whole
from unireason_jax.pods import batches, pod, sharding
from unireason_jax.run import command_line

KEY = "UNIREASON_KEY"
ROWS = 4
# What only the process that speaks HTTP goes by.
_OF_THE_FIRST = "host port key_file queue seconds megabytes memory pixels warm open".split()
MISSING = "serve needs FastAPI and Uvicorn: pip install 'unireason-jax[serve]'"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--checkpoint", required=True, help="a run's or a converted folder")
    found.add_argument("--host", default="127.0.0.1", help="address to listen at [127.0.0.1]")
    found.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one [8000]")
    found.add_argument("--key_file", type=Path, help="holds the key that requests must send")
    found.add_argument("--queue", type=int, default=64, help="most requests that wait [64]")
    found.add_argument("--seconds", type=float, default=600, help="most of a request [600]")
    about = "most megabytes of a request's body [32]"
    found.add_argument("--megabytes", type=int, default=32, help=about)
    about = "most megabytes of all bodies at a time [512]"
    found.add_argument("--memory", type=int, default=512, help=about)
    about = "most pixels of a picture, given or drawn [16777216]"
    found.add_argument("--pixels", type=int, default=4096 * 4096, help=about)
    about = "compile before the first request: draw and edit a picture"
    found.add_argument("--warm", action="store_true", help=about)
    about = "open the page in a browser, where there is one"
    found.add_argument("--open", action="store_true", help=about)
    default_preset.add_preset(found)
    add_flags(found)
    return found


def run(arguments: argparse.Namespace) -> None:
    """Serves until it is told to end.

    Raises:
      FileNotFoundError, ValueError: a flag or the checkpoint is wrong, or the port is taken.
    """
    try:
        from unireason_jax.server import process
    except ModuleNotFoundError as error:
        raise ValueError(f"{MISSING} ({error.name} is missing).") from None
    _check(arguments)
    if sharding.initialize_distributed() > 1:
        # JAX's own handler would leave a process that has not yet begun to serve as it is.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pod.ending_together():
        try:
            _serve(arguments, process)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from None


def _serve(arguments: argparse.Namespace, process: Any) -> None:
    """This process's part of `run`."""
    is_first, rows = jax.process_index() == 0, arguments.batch or ROWS
    _agree(arguments)
    key = _key(arguments.key_file) if is_first else ""
    socket = process.listen(arguments.host, arguments.port) if is_first else None
    reasoner = _reasoner(arguments)
    about = told(arguments)  # which all processes read
    if is_first:
        process.serve(reasoner, socket, key=key, rows=rows, about=about, given=arguments)
    else:
        process.assist(reasoner, rows)


def _agree(arguments: argparse.Namespace) -> None:
    """Raises ValueError in all processes of a job where two have other flags for the model."""
    for name, value in sorted(vars(arguments).items()):
        if name not in _OF_THE_FIRST:
            remedy = f"start all processes with the same flags (here it is {value})"
            pod.same(f"--{name}", str(value), remedy)


def _reasoner(arguments: argparse.Namespace) -> Reasoner:
    """The model, with its weights spread over all devices of the job."""
    if arguments.mesh is None and jax.device_count() > 1:
        arguments.mesh = {"tensor": jax.device_count()}
    reasoner = from_flags(arguments, jax.devices())
    mesh = reasoner.engine.mesh
    if mesh is not None and batches.row_parts(mesh) > 1:
        raise ValueError("serve spreads weights, not conversations: --mesh tensor=N.")
    return reasoner


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for flags that cannot be."""
    whole("--port", arguments.port, least=0, most=65535)
    whole("--queue", arguments.queue, least=1)
    number("--seconds", arguments.seconds, above=0)
    for name in ("megabytes", "memory", "pixels"):
        whole(f"--{name}", getattr(arguments, name), least=1)


def _key(file: Path | None) -> str:
    """The key, of the file or the environment; empty for none."""
    key = os.environ.get(KEY, "") if file is None else file.read_text(encoding="utf-8")
    key = key.strip()
    if file is not None and not key:
        raise ValueError(f"--key_file {file}: there is no key in it.")
    if not key.isascii() or any(letter.isspace() for letter in key):
        raise ValueError("the key must be one word of ASCII letters.")
    return key


def main(argv: Sequence[str] | None = None) -> Any:
    """Entry point; ends with one clear line on a wrong flag or checkpoint."""
    return command_line.run(parser(), run, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
