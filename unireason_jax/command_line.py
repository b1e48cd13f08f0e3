"""Command lines of entry points whose flags are their own, so that several can share a process."""

from collections.abc import Sequence

from absl import flags


def parse(own: flags.FlagValues, argv: Sequence[str], about: str) -> bool:
    """Reads `argv` (program name first) into `own`; False when help was asked for and printed.

    Raises:
      flags.Error: an unknown flag or a wrong value.
      ValueError: a word that is no flag.
    """
    if {"--help", "-h", "--helpfull"} & set(argv[1:]):
        print(f"{about}\n{own.get_help()}")
        return False
    if rest := own(list(argv))[1:]:
        raise ValueError(f"unknown argument {rest[0]!r}; flags start with --")
    return True
