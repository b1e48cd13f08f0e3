"""Whose way of sampling a model follows: of a release by its name, of a run by its records."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from unireason_jax.data.sources import ArrayRecordSource, is_prepared
from unireason_jax.data.templates import STYLE_OF
from unireason_jax.run import corpus, tokenizing
from unireason_jax.run.configuration import ConfigError


def system_of(folder: Path) -> str:
    """The system that a release's folder is named after, BAGEL's where its name tells none."""
    words = re.findall("[a-z0-9]+", folder.resolve().name.lower())
    name = "".join(words)
    if "unireason" in name:
        return "unireason"
    if "uniedit" in name:
        return "uni_edit"
    return "irg" if "irg" in words else "bagel"


def told(config: ConfigDict) -> ConfigDict:
    """The config with system, style and sizes of its prepared records, where it names none.

    Of several folders the system counts that builds on the others.

    Raises:
      ConfigError: an unknown system.
    """
    named = config.get("system", "")
    if named and named not in STYLE_OF:
        known = ", ".join(STYLE_OF)
        raise ConfigError(f"config.system is {named!r}; use one of {known}.")
    folders = [path for path in corpus.places(config).values() if is_prepared(path)]
    manifests = [ArrayRecordSource(folder).manifest for folder in folders]
    order = [*STYLE_OF, ""]
    manifests = [m for m in manifests if "style" in m and m.get("system", "") in order]
    if not manifests:
        return config
    first = min(manifests, key=lambda manifest: order.index(manifest.get("system", "")))
    made = config.copy_and_resolve_references()
    made.data.sizes = tokenizing.sizes_of(config)
    made.system = named or first.get("system", "")
    if config.data.style == "plain":
        made.data.style = first["style"]
    return made
