"""What a user says about a synthesis: seeds, licence, who plays which role."""

import difflib
import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from unireason_jax.endpoints.billing import Budget
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint, faults
from unireason_jax.storage import texts
from unireason_jax.synthesis.recipe import Recipe

_LARGEST = 1 << 14  # pixels of an edge
_Edge = Annotated[int, pydantic.Field(ge=1, le=_LARGEST)]


class RoleSettings(pydantic.BaseModel):
    """Who plays a role: `endpoints`, and where spending stops, 0 for never."""

    model_config = pydantic.ConfigDict(extra="forbid")

    endpoints: list[Endpoint] = pydantic.Field(min_length=1)
    budget: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
    budget_tokens: int = pydantic.Field(0, ge=0)


class Configuration(pydantic.BaseModel):
    """The file behind `--config`.

    Attributes:
      seeds: JSON lines, JSON, a text of one prompt a line, or a tar of WebDataset or a folder of
        them; relative to this file.
      answers: VQAv2's annotations, where the seeds are its questions.
      picture: path of a question's picture beside the seeds, such as
        "val2014/COCO_val2014_{image_id:012}.jpg".
      fields: names that the seeds have for the recipe's inputs, where they differ.
      licence: of the records; written into every one.
      benchmarks: prompt files of benchmarks; seeds that are in them are refused.
      roles: who plays what.
      seed: of everything that is drawn by lot.
      samples: items of one seed.
      size: (width, height) of pictures that are drawn; an answer of another size is not taken.
      in_flight: items that are worked on at a time; 0 for as many as the endpoints take.
      nearness: share of a picture's hash that may differ between near-duplicates; negative for
        keeping all.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    seeds: str
    answers: str = ""
    picture: str = ""
    fields: dict[str, str] = {}
    licence: Annotated[
        str, pydantic.StringConstraints(min_length=1, strip_whitespace=True, pattern=r"^[^\n]*$")
    ]
    benchmarks: list[str]
    roles: dict[str, RoleSettings]
    seed: int = pydantic.Field(0, ge=0)
    samples: int = pydantic.Field(1, ge=1, le=1000)
    size: tuple[_Edge, _Edge] | None = None
    in_flight: int = pydantic.Field(0, ge=0, le=10_000)
    nearness: float = pydantic.Field(0.01, le=0.5)

    def workers(self) -> int:
        """Items worked on at a time."""
        alike = {e.model_dump_json(): e for role in self.roles.values() for e in role.endpoints}
        return self.in_flight or min(2 * sum(e.concurrency for e in alike.values()), 1024)

    def digest(self, recipe: Recipe) -> str:
        """A short name for everything that a record depends on, addresses aside."""
        models = {
            name: [(e.model, e.extra, e.structured) for e in role.endpoints]
            for name, role in sorted(self.roles.items())
        }
        said = [recipe.digest(), models, self.seed, self.samples, self.size, self.licence]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def load(path: Path, recipe: Recipe) -> Configuration:
    """The configuration of a file, with a role for every one that the recipe names.

    Raises:
      ValueError: anything in it that cannot be; one line that names the file and the field.
    """
    try:
        raw = tomllib.loads(texts.read(path))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}).") from None
    unknown = [key for key in raw if key not in Configuration.model_fields]
    if unknown:
        near = difflib.get_close_matches(unknown[0], Configuration.model_fields, n=1)
        hint = f"did you mean '{near[0]}'?" if near else ", ".join(Configuration.model_fields)
        raise ValueError(f"{path}: unknown field '{unknown[0]}'; {hint}")
    if "benchmarks" not in raw:
        raise ValueError(
            f"{path}: field 'benchmarks' is missing; list the prompt files of the benchmarks that "
            "the model will be held against, or write benchmarks = [] to check none."
        )
    try:
        found = Configuration.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: {faults(error)}.") from None
    for role in recipe.roles():
        if role not in found.roles:
            raise ValueError(
                f"{path}: recipe '{recipe.name}' needs an endpoint for role '{role}'; add "
                f"[[roles.{role}.endpoints]] with url and model."
            )
    for role in found.roles:
        if role not in recipe.roles():
            near = difflib.get_close_matches(role, recipe.roles(), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(recipe.roles())}"
            raise ValueError(f"{path}: recipe '{recipe.name}' has no role '{role}'; {hint}")
        for endpoint in found.roles[role].endpoints:
            if not endpoint.model:
                raise ValueError(f"{path}: role '{role}': an endpoint needs 'model'.")
    return found


def roles(configuration: Configuration, journal: CallJournal | None) -> dict[str, Role]:
    """The roles, not yet connected. Raises ValueError where the variable of a key is not set."""
    wires: dict = {}
    return {
        name: Role(
            name,
            each.endpoints,
            wires=wires,
            budget=Budget(each.budget, each.budget_tokens, name=f"role '{name}'"),
            journal=journal,
        )
        for name, each in configuration.roles.items()
    }


async def check_models(cast: Mapping[str, Role]) -> list[str]:
    """Asks every endpoint, at no cost, whether it is there and knows the model it is named for.

    Returns:
      Addresses that do not list their models, so that nothing is known about them.

    Raises:
      ValueError: an endpoint cannot be reached, refuses the key, or has no such model.
    """
    silent: list[str] = []
    for name, role in cast.items():
        try:
            listed = await role.models()
        except CallFailure as error:
            raise ValueError(f"role '{name}': {error.kind}: {error}") from None
        for endpoint in role.endpoints:
            models = listed[endpoint.url]
            if models is None:
                silent.append(endpoint.url)
            elif endpoint.model not in models:
                near = difflib.get_close_matches(endpoint.model, models, n=1)
                hint = f"did you mean '{near[0]}'?" if near else _some(models)
                raise ValueError(
                    f"role '{name}': {endpoint.url} has no model '{endpoint.model}'; {hint}"
                )
    return silent


def _some(models: list[Any]) -> str:
    return f"it has {', '.join(map(str, models[:5]))}" + (", ..." if len(models) > 5 else "")
