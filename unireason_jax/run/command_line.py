"""Command lines: flags of an entry point's own, and one clear line where something is wrong."""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from unireason_jax.run import compile_cache, option_names
from unireason_jax.storage import paths

MENDABLE = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""Errors of what a user has given; other OSErrors are of a place that may answer again."""


class Mistake(SystemExit):
    """Ends a process with one line and status 2: its user has to mend something.

    Whatever starts processes again (`launch/`) does not do so after this status.
    """

    status = 2


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], Any],
    argv: Sequence[str] | None,
) -> Any:
    """Reads `argv` (None: the process's own), runs the command and returns what it returns.

    A wrong flag ends the process with one line and status 2; a wrong file, value or checkpoint
    (ValueError, OSError) likewise, with status 1.
    """
    parser.error = lambda message: parser.exit(2, f"error: {message}; --help lists the flags\n")
    try:
        given, unknown = parser.parse_known_args(argv)
        if unknown:
            parser.error(_unknown(unknown, vars(given)))
        compile_cache.share()
        return command(given)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _unknown(words: Sequence[str], known: Collection[str]) -> str:
    """What is to be said of words that no flag takes; `known` are the names of those there are."""
    flags = [word.partition("=")[0] for word in words if re.match("--?[A-Za-z]", word)]
    if not flags:
        return f"unknown argument {words[0]!r}; a text of several words stands in quotes"
    told = []
    for flag in flags:
        name = flag.lstrip("-").replace("-", "_")
        near = option_names.meant(name, known)
        hint = f", did you mean --{near}?" if near else ""
        told.append(option_names.refusal(name) or f"unknown flag {flag}{hint}")
    return "; ".join(told)


def path(text: str) -> Path | paths.Bucket:
    """The type of a flag that names a file or a folder, on a file system or in a bucket."""
    try:
        return paths.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def listing(table: Callable[[], str]) -> type[argparse.Action]:
    """The action of a flag whose value `list` shows a table and ends; any other value is kept."""

    class Listing(argparse.Action):
        """Keeps a name, or shows the table."""

        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: str | Sequence[Any] | None,
            option_string: str | None = None,
        ) -> None:
            """Keeps the name, or shows the table."""
            if values == "list":
                print(table())
                parser.exit()
            setattr(namespace, self.dest, values)

    return Listing


def define_shares(own: flags.FlagValues) -> None:
    """Adds --share and --finish (`data.prepared.shares`) to the flags of a verb."""
    about = "i/n: make this part of the shards only, as others make theirs"
    flags.DEFINE_string("share", "", about, flag_values=own)
    about = "all shares are made: write index and manifest"
    flags.DEFINE_bool("finish", False, about, flag_values=own)


def parse(
    own: flags.FlagValues,
    argv: Sequence[str],
    about: str,
    read: Callable[[flags.FlagValues, Sequence[str]], list[str]] = flags.FlagValues.__call__,
) -> bool:
    """Reads `argv` (program name first) into `own`; False when help was asked for and printed.

    `read` is `overrides.read_flags` where `own` defines a config.

    Raises:
      flags.Error: an unknown flag or a wrong value.
      ValueError: a word that is no flag.
    """
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        print(f"{about}\n{own.get_help()}")
        return False
    if rest := read(own, list(argv))[1:]:
        raise ValueError(f"unknown argument {rest[0]!r}; flags start with --")
    return True
