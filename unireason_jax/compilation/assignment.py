"""A program compiled until its memory is assigned, without the machine code that takes longest.

XLA writes the optimized program and the assignment of memory into a folder before it makes machine
code, which for a TPU takes ten times as long as all before it. No option ends a compilation there,
so it is done in a process of its own, which is ended when both files are whole.
"""

import dataclasses
import multiprocessing
import re
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import jax
from ml_collections import ConfigDict

from unireason_jax.compilation import programs, topology
from unireason_jax.data.rows import Budgets

_PROGRAM, _MEMORY = "*after_optimizations.txt", "*after_optimizations-memory-usage-report.txt"
_TOTAL = re.compile(r"Memory Space: \w+ \(color=0\)\nTotal bytes: (\d+) ")
_WHOLE = re.compile(r"\nENTRY (?s:.*)\n\}\s*\Z")  # what runs first stands last
_SECONDS = 0.2  # between two looks


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What is known of a program before its machine code.

    Attributes:
      memory: bytes of a device's memory, with what is lost between arrays.
      text: the optimized program as HLO, the same as that of the executable.
    """

    memory: int
    text: str


def assign(program: str, config: ConfigDict, where: str, budgets: Budgets) -> Assignment:
    """Compiles one of `programs.PROGRAMS` for a topology until memory is assigned.

    Raises:
      JaxRuntimeError: the compiler refuses the program, as one that needs too much memory.
      ConfigError, ValueError: as `programs.lower`.
      RuntimeError: the compiler's process ended without a word.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, context = Path(name), multiprocessing.get_context("spawn")
        failed, fail = context.Pipe(duplex=False)
        process = context.Process(
            target=_compile, args=(fail, folder, program, config, where, budgets), daemon=True
        )
        process.start()
        fail.close()
        found = None
        try:
            while process.is_alive():
                found, before = _found(folder), found
                if found and found == before:  # nothing is being written any more
                    return found
                time.sleep(_SECONDS)
        finally:
            process.kill()
            process.join()
        if found := _found(folder):
            return found
    try:
        error = failed.recv()
    except EOFError:
        error = RuntimeError(f"the compiler ended with status {process.exitcode} for {where}.")
    raise error


def _found(folder: Path) -> Assignment | None:
    """What the compiler has written, in whatever order; None unless both files are there."""
    for memory in folder.glob(_MEMORY):
        total = _TOTAL.match(memory.read_text())
        for program in folder.glob(_PROGRAM):
            text = program.read_text()
            if total and _WHOLE.search(text):
                return Assignment(int(total[1]), text)
    return None


def _compile(
    fail: Connection, folder: Path, program: str, config: ConfigDict, where: str, budgets: Budgets
) -> None:
    """In a process of its own: compiles, and sends the error that ended it."""
    topology.be_a_host(where)
    jax.config.update("jax_enable_compilation_cache", False)  # what is there leaves no files
    devices, _ = topology.devices(where)
    try:
        lowered = programs.lower(program, programs.run_of(program, config, devices), budgets)
        lowered.compile({"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True})
    except Exception as error:
        fail.send(error)
