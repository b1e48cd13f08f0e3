"""Teachers of few-step students: how they generate and edit, settled before a student learns it."""

from etils import epath
from ml_collections import ConfigDict

from unireason_jax.inference import load
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.systems import catalog
from unireason_jax.rules.poorer_contexts import IMAGE_FREE
from unireason_jax.run import configuration, init_from
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.run.students import GUIDANCE, is_student
from unireason_jax.training import checkpoint

_VERBS = {"draw": "generate", "edit": "edit"}


def settle(config: ConfigDict, workdir: epath.PathLike) -> list[str]:
    """Writes down, in place, what a student's config leaves open: how its teacher, the weights of
    `init_from`, generates and edits; a run that goes on keeps what it has learned from.

    Args:
      config: the resolved config; nothing happens to one without a student.
      workdir: of the run.

    Returns:
      Lines that say what the teacher does.

    Raises:
      ConfigError: no teacher, or guidance that a student cannot learn.
      FileNotFoundError, ValueError: the teacher is not a run.
    """
    if not is_student(config):
        return []
    if checkpoint.steps(workdir):
        _fill(config.distill, configuration.load_workdir(workdir).get("distill", {}))
        return []
    if init_from.named(config) == init_from.SCRATCH:
        raise ConfigError("config.init_from=scratch: a student needs a teacher; name its run.")
    home = init_from.home(epath.Path(config.init_from))
    run = Run.load(home)
    usual, verbs = load.usual_settings(run, home), load.verbs(run)
    presets = {name: catalog.find(verbs[verb]) for name, verb in _VERBS.items()}
    flows = {name: preset.settings(usual).flow for name, preset in presets.items()}
    told = {"teacher_step": int(checkpoint.find(config.init_from).name)}
    told |= {"shift": flows["draw"].shift}
    _fill(config.distill, told | {name: _guidance(flow) for name, flow in flows.items()})
    for name in GUIDANCE:
        _check(name, config.distill[name])
    return [
        f"teacher: {config.init_from} at step {config.distill.teacher_step}, "
        f"{_told(config.distill)}"
    ]


def _guidance(flow: FlowSettings) -> dict:
    names = ("text_scale", "image_scale", "interval", "renorm", "renorm_min")
    free = flow.image_free if isinstance(flow.image_free, str) else "texts of its own"
    found = {name: getattr(flow, name) for name in (*names, "text_free")}
    return found | {"image_free": free}


def _fill(config: ConfigDict, values: ConfigDict | dict) -> None:
    """Puts values in the place of leaves that are None."""
    for key, value in values.items():
        if isinstance(config.get(key), ConfigDict):
            _fill(config[key], value)
        elif config.get(key) is None:
            config[key] = tuple(value) if isinstance(value, list) else value


def _check(name: str, guidance: ConfigDict) -> None:
    """Raises ConfigError for guidance away from a context that packed rows do not know."""
    if guidance.text_scale > 1 and guidance.text_free != "all":
        raise ConfigError(
            f"config.distill.{name}.text_free: the teacher is guided away from the context "
            f"{guidance.text_free!r}, but a student learns from that without any text; say "
            f"--config.distill.{name}.text_free=all, or distill.{name}.text_scale=1.0 for none."
        )
    if guidance.text_scale > 1 and guidance.image_scale > 1:
        if guidance.image_free not in IMAGE_FREE:
            raise ConfigError(
                f"config.distill.{name}.image_free: the teacher is guided away from "
                f"{guidance.image_free!r}; a student learns one of {', '.join(IMAGE_FREE)}."
            )


def _told(distill: ConfigDict) -> str:
    """In words, what a student learns."""
    own = f"{distill.steps} steps at shift {distill.shift:g}" if distill.steps else "any time"
    parts = [(name, distill[name]) for name in GUIDANCE]
    scales = ", ".join(f"{name} {one.text_scale:g} {one.image_scale:g}" for name, one in parts)
    return f"{distill.substeps} of its steps in one; {own}; scales of guidance: {scales}"
