"""Command lines that hold a config: `--config=FILE` and `--config.<path>=<value>`.

`ml_collections.config_flags` reads the values; here mistakes are answered in one line, mappings are
taken as JSON, and help is printed.
"""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from unireason_jax.run import configuration, key_synonyms
from unireason_jax.run.configuration import OPEN, ConfigError, find_file, leaves, load, unknown_key

_OVERRIDE = re.compile(r"^--?(?:no)?config\.([\w.\-]+)")
HELP = {"--help", "-h", "-help", "--helpfull", "--helpshort"}


def parse_flags(
    argv: Sequence[str], about: str = "", own: Sequence[flags.FlagHolder] = ()
) -> list[str]:
    """`flags_parser` for absl.app.run: parses, and ends with one clear line on a wrong flag.

    Args:
      argv: the command line, program name first.
      about: printed for --help, which ends the process with status 0.
      own: the flags that --help describes; after them come the leaves of the config.
    """
    try:
        if HELP & set(argv[1:]):
            print(help_text(argv, about, own))
            sys.exit(0)
        return read_flags(flags.FLAGS, argv)
    except ConfigError as error:
        sys.exit(f"error: {error}")


def help_text(argv: Sequence[str], about: str, own: Sequence[flags.FlagHolder]) -> str:
    """What the program does, its flags, and every key of its config with its value."""
    lines = [about.strip(), "", "flags:"]
    for holder in own:
        default = "" if holder.default is None else f" (default {holder.default})"
        lines.append(f"  --{holder.name:<14} {flags.FLAGS[holder.name].help}{default}")
    file = _config_flag(argv) or "configs/common.py"
    lines += ["", f"keys of {file}, each set by --config.<key>=<value>:"]
    known = {**leaves(load(file)), **{key: {} for key in OPEN}}
    lines += [f"  {key:<34} {value!r}" for key, value in known.items()]
    return "\n".join(lines)


def read_flags(own: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Reads `argv` (program name first) into `own`; returns the words that are no flags.

    Raises:
      ConfigError: a wrong flag, config file, key, or value.
    """
    file = _config_flag(argv)
    known = leaves(load(file)) if file else {}
    plain, mappings = _without_mappings(argv, known)
    for argument in plain:
        override = _OVERRIDE.match(argument)
        key = override.group(1) if override else None
        if key and known and key not in known:
            raise unknown_key(key, list(known))
    given, sys.argv = sys.argv, [a for a in sys.argv if a not in mappings]
    try:  # config_flags looks for overrides in sys.argv
        rest = own([_absolute(argument, file) for argument in plain])
    except flags.Error as error:
        raise _explained(error, known) from None
    finally:
        sys.argv = given
    for argument, (key, text) in mappings.items():
        configuration.apply(own["config"].value, {key: _json(argument, text)})
    return rest


def _explained(error: flags.Error, known: dict[str, Any]) -> ConfigError:
    """A flag's error in terms of the config, where it is about that."""
    if isinstance(error, flags.UnrecognizedFlagError):
        name = error.flagname.rsplit(".", 1)[-1]
        near = [key for key in (error.flagname, *key_synonyms.meant(name)) if key in known]
        hint = f" Did you mean --config.{near[0]}?" if near else ""
        return ConfigError(f"{error}{hint}")
    key = re.search(r"--config\.([\w.]+)", str(error))
    if key is None or key.group(1) not in known:
        return ConfigError(str(error))
    value = known[key.group(1)]
    expected = "a number" if value is None else f"{_kind(value)}, like {value!r}"
    return ConfigError(f"{error}; config.{key.group(1)} must be {expected}.")


def _without_mappings(
    argv: Sequence[str], known: dict[str, Any]
) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """The words without those that set a mapping or a new key of one: (key, text) by word."""
    mappings = {}
    for argument in argv:
        override = _OVERRIDE.match(argument)
        key = override.group(1) if override else ""
        whole = key in OPEN or any(name.startswith(f"{key}.") for name in known)
        if key and known and (whole or (key.rpartition(".")[0] in OPEN and key not in known)):
            if "=" not in argument:
                raise ConfigError(f"{argument}: write {argument}=<value> in one word.")
            mappings[argument] = key, argument.partition("=")[2]
    return [argument for argument in argv if argument not in mappings], mappings


def _json(argument: str, text: str) -> Any:
    """The value of a word in JSON. Raises ConfigError when it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        flag = argument.partition("=")[0]
        example = f'{flag}=\'{{"a": 1.0, "b": 2.0}}\''
        raise ConfigError(f"{argument}: not JSON; write a mapping such as {example}.") from None


def _absolute(argument: str, file: str | None) -> str:
    """A command-line word, with the config file in full wherever it was found."""
    flag, equals, value = argument.rpartition("=")
    if file is None or value != file or flag not in ("", "--config", "-config"):
        return argument
    name, colon, rest = file.partition(":")
    return f"{flag}{equals}{find_file(name).resolve()}{colon}{rest}"


def _kind(value: Any) -> str:
    """How to speak of a value's type."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")


def _config_flag(argv: Sequence[str]) -> str | None:
    """The value of the last --config in a command line."""
    found = None
    for argument, following in zip(argv, [*argv[1:], None]):
        if argument in ("--config", "-config"):
            found = following
        elif argument.startswith(("--config=", "-config=")):
            found = argument.split("=", 1)[1]
    return found
