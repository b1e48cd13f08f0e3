"""The records that a config names: opened, shared out, told apart from held-out ones."""

from collections.abc import Mapping
from pathlib import Path

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.data import split
from unireason_jax.data.mixture import RecordSource
from unireason_jax.data.sources import (
    Reading,
    WorldSource,
    open_source,
    should_be_prepared,
)
from unireason_jax.data.templates import STYLES, Style
from unireason_jax.run.configuration import ConfigError
from unireason_jax.storage import paths

Sources = dict[str, RecordSource]


def make_sources(
    config: ConfigDict, *, seed: int, held_out: bool = False
) -> tuple[Sources, Mapping[str, float] | None]:
    """The records of a config by name, and their shares of the examples (None: each record once).

    Args:
      config: the resolved config.
      seed: of the world's examples.
      held_out: prompts of the world that training never draws; for files, `data.held_out`, or the
        share of every source that `data.held_out_share` keeps from training.

    Raises:
      ConfigError: keys that contradict each other, or leave nothing to read.
      FileNotFoundError, ValueError: the data cannot be opened, or there is none.
    """
    data = config.data
    if data.source == "world":
        sources, shares = {"world": _world(config, seed, held_out)}, None
    elif held_out and data.held_out:
        check_held_out(config)
        sources, shares = {"held_out": _open(data.held_out, config)}, None
    else:
        sources = {name: _open(path, config) for name, path in places(config).items()}
        shares = {name: data.groups[name] for name in sources} if data.groups else None
        if share := held_out_share(config):
            parts = {"share": share, "held_out": held_out}
            sources = {name: split.part(one, **parts) for name, one in sources.items()}
        elif held_out:
            check_held_out(config)
    return (sources, shares) if held_out else _with_extra(config, sources, shares)


def held_out_share(config: ConfigDict) -> float:
    """The part of every source that is held out; 0 where other records are, or none."""
    share = config.data.get("held_out_share", 0.0)  # runs from before it have none
    return 0.0 if config.data.held_out or config.data.source == "world" else share


def check_held_out(config: ConfigDict) -> None:
    """Whether held-out records are named and there, or a share is; the world has its own.

    Raises:
      ConfigError: none are named.
      FileNotFoundError: they are not there.
    """
    data = config.data
    if data.source == "world" or held_out_share(config):
        return
    if not data.held_out:
        raise ConfigError(
            "config.data.held_out: name the held-out records, set config.data.held_out_share to "
            "the part of the records to hold out, or eval.every=0."
        )
    if not paths.of(data.held_out).exists():
        raise FileNotFoundError(f"config.data.held_out: {data.held_out} does not exist.")


def quotas(config: ConfigDict, sources: Sources) -> dict[str, int] | None:
    """Records of a source that every row holds at least, by name; None for none."""
    wanted = {**config.data.quotas, "extra": config.data.extra.quota}
    return {name: n for name, n in wanted.items() if n and name in sources} or None


def plan_folder(sources: Sources, workdir: epath.PathLike | None) -> Path | None:
    """Where plans are kept: beside the shards of the first source, if one may write there."""
    folder = getattr(next(iter(sources.values())), "folder", None)
    if folder and paths.may_write(folder):
        return folder / "plans"
    return paths.of(workdir) / "plans" if workdir else None


def places(config: ConfigDict) -> dict[str, Path]:
    """Paths of the records by name; none for the world.

    Raises:
      ConfigError: no records are named, or no group has a share.
    """
    data = config.data
    if not data.source:
        raise ConfigError(
            "config.data.source: name the records, a folder that `unireason prepare` and "
            "`unireason encode` wrote: --config.data.source=data/latents."
        )
    if data.source == "world":
        return {}
    if not data.groups:
        return {data.source: paths.of(data.source)}
    folder = paths.of(data.source)
    found = {name: folder / name for name, share in data.groups.items() if share > 0}
    if not found:
        raise ConfigError("config.data.groups: every share is 0; give one group a share.")
    return found


def folders(config: ConfigDict) -> dict[str, Path]:
    """Everything prepared that a config reads, by the name it has beside the others.

    The name of the only folder is "."; held-out and extra records are "held_out" and "extra".

    Raises:
      ConfigError: as `places`.
    """
    data = config.data
    found = {name if data.groups else ".": path for name, path in places(config).items()}
    more = {"held_out": data.held_out, "extra": data.extra.path}
    return found | {name: paths.of(path) for name, path in more.items() if path}


def absent(config: ConfigDict) -> list[Path]:
    """Records that the config names and that are not there."""
    return [path for path in places(config).values() if not path.exists()]


def style_of(config: ConfigDict) -> Style:
    """How the config's records are told.

    Raises:
      ConfigError: an unknown style.
    """
    if config.data.style not in STYLES:
        known = ", ".join(STYLES)
        raise ConfigError(f"config.data.style is {config.data.style!r}; use one of {known}.")
    return STYLES[config.data.style]


def prepared(config: ConfigDict) -> list[Path]:
    """The prepared folders among the records, and folders that can be nothing else."""
    return [path for path in places(config).values() if should_be_prepared(path)]


def _world(config: ConfigDict, seed: int, held_out: bool) -> WorldSource:
    data = config.data
    weights = {task: weight for task, weight in data.mixture.items() if weight > 0}
    if not weights:
        raise ConfigError("config.data.mixture: every weight is 0; give one task a weight.")
    size = config.eval.examples if held_out else data.examples
    style = style_of(config)
    return WorldSource(seed, size, weights, held_out=held_out, style=style, side=data.side)


def _open(path: str | Path, config: ConfigDict) -> RecordSource:
    outside = config.data.get("allow_outside", False)  # runs from before it have none
    return open_source(path, Reading(style=style_of(config), allow_outside=outside))


def _with_extra(
    config: ConfigDict, sources: Sources, shares: Mapping[str, float] | None
) -> tuple[Sources, Mapping[str, float] | None]:
    """Adds `data.extra` to the sources of a config.

    Raises:
      ConfigError: a path without a share in (0, 1), a share without a path, or several groups.
    """
    extra = config.data.extra
    if not extra.path and not extra.share:
        return sources, shares
    if not extra.path or not 0 < extra.share < 1 or shares:
        raise ConfigError(
            "config.data.extra: set path and share together, 0 < share < 1, and no data.groups."
        )
    (name,) = sources
    sources = {**sources, "extra": _open(extra.path, config)}
    return sources, {name: 1 - extra.share, "extra": extra.share}
