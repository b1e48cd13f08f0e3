"""Which preset a verb uses."""

import argparse
import dataclasses

from unireason_jax.inference.preset import Preset
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.systems import catalog
from unireason_jax.run import command_line


def add_preset(parser: argparse.ArgumentParser, default: str = "the checkpoint's own") -> None:
    """Adds --preset, for `chosen` and `use`."""
    about = f"how a system samples, by name; `list` shows all (default: {default})"
    parser.add_argument(
        "--preset", action=command_line.listing(catalog.table), metavar="NAME", help=about
    )


def chosen(reasoner: Reasoner, verb: str, name: str | None) -> tuple[str, Preset, Settings]:
    """The preset of a verb, and the settings it is used with.

    Args:
      reasoner: the model.
      verb: "generate", "edit" or "ask": whose preset is taken where none is named. One that was
        not chosen leaves the size of the training.
      name: of a preset, or None.

    Raises:
      ValueError: an unknown preset.
    """
    found = name or reasoner.presets[verb]
    preset = catalog.find(found)
    settings = preset.settings(reasoner.settings)
    if name is None:
        settings = dataclasses.replace(settings, size=reasoner.settings.size)
    return found, preset, settings


def use(reasoner: Reasoner, name: str | None) -> None:
    """Lets a reasoner do everything with the settings and the style of a preset, if one is named.

    Raises:
      ValueError: an unknown preset.
    """
    if name is not None:
        preset = catalog.find(name)
        reasoner.settings = preset.settings(reasoner.settings)
        reasoner.style = reasoner.style if preset.style is None else preset.style
