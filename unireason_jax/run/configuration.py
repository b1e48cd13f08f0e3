"""Config files: loading, overriding from the command line, sweeps, and errors that help.

A config file is Python that returns data: `get_config()` gives an ml_collections ConfigDict, an
optional `sweep()` yields dicts of overrides ("optim.lr": 1e-4). Every leaf can be overridden by
`--config.<path>=<value>`. Entry points turn the ConfigDict into frozen dataclasses here, so that
nothing below them sees it.
"""

import dataclasses
import difflib
import importlib
import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.models import functional
from unireason_jax.models.config import VARIANTS, ModelConfig, to_dict, variant
from unireason_jax.models.sizes import DTYPES, QUANTIZED, LoraConfig, QuantizedConfig, one_of
from unireason_jax.run import hardware, key_synonyms
from unireason_jax.storage import atomic
from unireason_jax.training.objective import LossConfig
from unireason_jax.training.optim import OptimConfig

FILE = "config.json"
_ROOT = Path(__file__).resolve().parents[2]
ALL_BUT_ADAPTERS, CODES = "^(?!.*/lora/[ab]$)", "/kernel/(codes|scale)$"
OPEN = ("data.groups", "data.quotas")  # mappings whose keys are the user's own
T = TypeVar("T")


class ConfigError(ValueError):
    """A config file, key or value that cannot be used."""


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaf values by dotted path."""
    found = {}
    for key in config:
        value = config[key]
        nested = isinstance(value, ConfigDict | dict)
        found |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    """The error for a key that does not exist; it names the nearest ones that do."""
    tail = key.rsplit(".", 1)[-1]
    same_name = [k for k in known if k.rsplit(".", 1)[-1] == tail]
    meant = [k for k in key_synonyms.meant(tail) if k in known]
    near = same_name or meant or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    if not near:
        inside = [k for k in known if k.startswith(key.rsplit(".", 1)[0] + ".")]
        near = (inside or sorted({k.split(".", 1)[0] for k in known}))[:6]
    return ConfigError(f"unknown config key '{key}'; did you mean {' or '.join(near)}?")


def load_file(path: str) -> dict[str, Any]:
    """The names a config file defines.

    Args:
      path: file, relative to the current directory or to the repository; a part after ":" is
        passed to `get_config`.

    Raises:
      ConfigError: no such file, or it defines no `get_config`.
    """
    name = path.split(":", 1)[0]
    found = find_file(name)
    _make_importable(found.resolve().parent)
    names = runpy.run_path(str(found))
    if "get_config" not in names:
        raise ConfigError(f"--config={name}: the file defines no get_config().")
    return names


def _make_importable(folder: Path) -> None:
    """Lets config files import `configs.common`, and what lies beside them, wherever they lie."""
    for path in (str(_ROOT), str(folder)):
        if path not in sys.path:
            sys.path.append(path)
    package = importlib.import_module("configs")  # another project's, if that comes first
    for path in [folder] * (folder.name == "configs") + [_ROOT / "configs"]:
        if str(path) not in package.__path__:
            package.__path__.append(str(path))


def find_file(name: str) -> Path:
    """A config file, looked for in the current directory and beside the package."""
    found = next((p for p in (Path(name), _ROOT / name) if p.is_file()), None)
    if found is None:
        folder = Path(name).parent if Path(name).parent.is_dir() else _ROOT / "configs"
        there = sorted(p.name for p in folder.glob("*.py") if p.stem != "__init__")
        near = difflib.get_close_matches(Path(name).name, there, n=1) or there
        raise ConfigError(f"--config={name}: no such file; {folder} has {', '.join(near)}.")
    return found


def load(path: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """The config of a file with overrides by dotted key.

    Raises:
      ConfigError: unknown file or key, a value of the wrong type, or an argument that the file
        refuses.
    """
    argument = path.split(":", 1)[1:]
    try:
        config = load_file(path)["get_config"](*argument)
    except (TypeError, ValueError) as error:
        if not argument or isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--config={path}: {error}.") from None
    apply(config, overrides or {})
    return config


def apply(config: ConfigDict, overrides: Mapping[str, Any]) -> None:
    """Overrides leaves by dotted key, in place. Raises ConfigError on a wrong key or type.

    A mapping replaces the leaves that it names, or all of one of `OPEN`, whose keys may be new.
    """
    known = leaves(config)
    for key, value in overrides.items():
        parent, _, name = key.rpartition(".")
        if key in OPEN and isinstance(value, Mapping):
            _fill(config, key, value)
            continue
        if isinstance(value, Mapping) and any(leaf.startswith(f"{key}.") for leaf in known):
            apply(config, {f"{key}.{name}": inner for name, inner in value.items()})
            continue
        if parent in OPEN and key not in known:
            room, inner = parent.split(".")
            _fill(config, parent, {**config[room][inner], name: value})
            continue
        if key not in known:
            raise unknown_key(key, list(known))
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError):
            raise ConfigError(
                f"config.{key}: {value!r} is a {type(value).__name__}; "
                f"it must be a {type(known[key]).__name__} like {known[key]!r}."
            ) from None


def _fill(config: ConfigDict, key: str, values: Mapping[str, Any]) -> None:
    """Puts numbers by names of the user's own in the place of one of `OPEN`.

    Raises:
      ConfigError: a value is no number.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"config.{key}.{name}: {value!r} must be a number, such as 1.0.")
    room, name = key.split(".")
    config[room][name] = ConfigDict(dict(values))


def sweep(path: str) -> list[dict[str, Any]]:
    """The overrides a config file's `sweep()` yields, checked against its keys.

    Raises:
      ConfigError: the file has no `sweep()`, or an entry has an unknown key.
    """
    names = load_file(path)
    if "sweep" not in names:
        raise ConfigError(f"--sweep_index: {path} defines no sweep().")
    entries = list(names["sweep"]())
    for entry in entries:
        load(path, entry)
    return entries


def apply_sweep(config: ConfigDict, path: str, index: int) -> str:
    """Applies one entry of the sweep in place; returns the name of its sub-directory."""
    entries = sweep(path)
    if not 0 <= index < len(entries):
        raise ConfigError(f"--sweep_index={index}: {path} has entries 0 to {len(entries) - 1}.")
    apply(config, entries[index])
    return f"sweep_{index:03d}"


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as nested plain values, ready for JSON."""
    return json.loads(json.dumps(config.to_dict()))


def save(workdir: epath.PathLike, config: ConfigDict) -> None:
    """Writes the resolved config to <workdir>/config.json."""
    atomic.write_text(epath.Path(workdir) / FILE, json.dumps(plain(config), indent=2) + "\n")


def load_workdir(workdir: epath.PathLike) -> ConfigDict:
    """The resolved config of a run. Raises FileNotFoundError naming the flag to change."""
    path = epath.Path(workdir) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; is {workdir} the --workdir of a training run?")
    return ConfigDict(json.loads(path.read_text()))


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """A dataclass from a part of the config; None leaves the dataclass's default.

    Raises:
      ConfigError: a key the dataclass does not have, or a missing one.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    chosen = {}
    for key in values:
        value = values[key]
        if key not in fields:
            raise unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in fields])
        if value is not None:
            chosen[key] = tuple(value) if isinstance(value, list | tuple) else value
    try:
        return cls(**chosen)
    except TypeError as error:
        raise ConfigError(f"config.{where}: {error}") from None


def model_config(config: ConfigDict, platform: str | None = None) -> ModelConfig:
    """The model's shape: the variant of `config.model`, with the leaves that are not None.

    Args:
      config: the whole config; `model.dtype` "auto" is what `platform` multiplies in hardware.
      platform: "cpu", "gpu" or "tpu"; that of the default devices if None.
    """
    values = config.model.to_dict()
    values.pop("frozen_dtype", None)
    name, with_vit = values.pop("variant"), values.pop("vit_tower", True)
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1) or sorted(VARIANTS)
        raise ConfigError(f"config.model.variant: unknown '{name}'; there is {', '.join(near)}.")
    changes = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v is not None} or None
        if value is not None:
            changes[key] = value
    if not with_vit:
        changes["vit"] = None
    if changes.get("dtype") == "auto":
        changes["dtype"] = hardware.native_dtype(platform)
    return _frozen_kernels(config, variant(name, **changes, lora=lora_config(config)))


def lora_config(config: ConfigDict) -> LoraConfig | None:
    """The adapters of `config.lora`; None with rank 0, and of runs before there were any."""
    if not config.get("lora") or not config.lora.rank:
        return None
    return build(LoraConfig, config.lora, "lora")


def forget_adapters(config: ConfigDict) -> None:
    """Makes a run's config, in place, that of the weights which its adapters were merged into."""
    if config.get("lora"):
        config.lora.rank = 0
    if config.model.get("frozen_dtype"):
        config.model.frozen_dtype = None


def frozen_dtype(config: ConfigDict, model: ModelConfig) -> str:
    """How weights that never move are kept: `model.frozen_dtype`, by default with adapters the
    dtype that they are multiplied in, else float32."""
    return config.model.get("frozen_dtype") or (model.dtype if model.lora else "float32")


def _frozen_kernels(config: ConfigDict, model: ModelConfig) -> ModelConfig:
    """The model with those kernels in few bits that never move and are to be kept so."""
    kind = frozen_dtype(config, model)
    one_of("frozen_dtype", kind, (*DTYPES, *QUANTIZED))
    if kind in DTYPES:
        return model
    among = ("",) if model.lora else tuple(config.optim.freeze)
    if not among:
        raise ConfigError(
            f"config.model.frozen_dtype={kind}: nothing is frozen; set config.lora.rank or "
            "config.optim.freeze."
        )
    made = dataclasses.replace(model, quantized=QuantizedConfig(kind, among))
    if not functional.quantized_kernels(made):
        raise ConfigError(
            f"config.model.frozen_dtype={kind}: optim.freeze holds no kernel of the layers."
        )
    return made


def of_model(model: ModelConfig, name: str) -> ConfigDict:
    """A training config whose model has these sizes; `name` is a variant of the same kind."""
    made = load("configs/common.py")
    values = to_dict(model)
    with_vit = values["vit"] is not None
    if not with_vit:
        del values["vit"]
    with made.unlocked():
        made.model = ConfigDict({"variant": name, "vit_tower": with_vit, **values})
    return made


def check_seeds(config: ConfigDict) -> None:
    """Raises ConfigError for a seed that would be cut to 32 bits without a word."""
    for key, seed in {"seed": config.seed, "data.seed": config.data.seed}.items():
        if not 0 <= seed < 2**32:
            raise ConfigError(f"config.{key} is {seed}; it must be in [0, 2**32).")


def loss_config(config: ConfigDict) -> LossConfig:
    """The joint loss of `config.loss`."""
    return build(LossConfig, config.loss, "loss")


def optim_config(config: ConfigDict, model: ModelConfig | None = None) -> OptimConfig:
    """The update rule of `config.optim`; the schedule ends at `train.steps` unless it says so.

    Beside adapters everything is frozen, and so are kernels of few bits. `model` is that of the
    config, where it is known already.
    """
    model = model or model_config(config)
    kept = frozen_dtype(config, model)
    values = {"total_steps": config.train.steps}
    values |= {k: v for k, v in config.optim.to_dict().items() if v is not None}
    added = ((ALL_BUT_ADAPTERS,) if model.lora else ()) + ((CODES,) if model.quantized else ())
    values |= {"freeze": (*config.optim.freeze, *added)}
    values |= {"frozen_dtype": kept if kept in DTYPES else "bfloat16"}
    return build(OptimConfig, values, "optim")
