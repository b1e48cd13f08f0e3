"""A recipe: stages in order, prompts in files beside it, and the records they end in.

A recipe is a folder with `recipe.toml`, its prompts and a card. Everything that can be wrong with
it is found when it is read, before anybody is paid: unknown stages, keys and fields, a prompt that
is not there, a value that no stage has made.
"""

import difflib
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.storage import texts
from unireason_jax.synthesis.programs import PROGRAMS
from unireason_jax.synthesis.scope import Scope
from unireason_jax.synthesis.shapes import Shape
from unireason_jax.synthesis.wording import fields_of

SHIPPED = Path(__file__).parent / "recipes"
FILE = "recipe.toml"
Condition = dict[str, bool | int | float | str | list[str]]


class Stage(pydantic.BaseModel):
    """One step of a recipe.

    Attributes:
      name: under which its result is known to later stages.
      kind: ask (a chat), draw, edit (pictures), compare (two pictures, asked in both orders), gate
        (drop what does not fulfil `when`), rounds (repeat `body`), leave (end the rounds),
        program (a function of `synthesis.programs`).
      role: who is asked.
      prompt: a file of the recipe's folder, or the words themselves.
      given: a value that, where there is one, is taken instead of asking.
      images: values that are pictures, in the order the prompt names them; of a list of steps all.
        An `edit` of a picture that is not there yet is drawn from words.
      answer: shape of a structured answer, see `synthesis.shapes`; none for plain text.
      attempts: for an answer that can be read, or a picture of the right size.
      temperature, max_tokens: of an `ask` or a `compare`.
      before, after: the two pictures of a `compare`.
      when: what must hold: yes or no, a number for at least so much, a word or one of several.
      only: as `when`: where it does not hold the stage is left out, and has no value.
      run: the program; `values` are what it is given.
      body: stages of the rounds; `most` of them, or one for each of `over`, which is known as
        `item`; `start` names values before the first round ("" for a picture that is not there yet)
        and `next` those of every further one.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: Literal["ask", "draw", "edit", "compare", "gate", "rounds", "leave", "program"]
    role: str = ""
    prompt: str = ""
    given: str = ""
    images: list[str] = []
    answer: dict[str, Any] = {}
    attempts: int = pydantic.Field(3, ge=1, le=20)
    temperature: float = pydantic.Field(0.0, ge=0, le=2)
    max_tokens: int = pydantic.Field(2048, ge=1)
    before: str = ""
    after: str = ""
    when: Condition = {}
    only: Condition = {}
    run: str = ""
    values: list[str] = []
    body: list["Stage"] = []
    most: int = pydantic.Field(3, ge=1, le=50)
    over: str = ""
    start: dict[str, str] = {}
    next: dict[str, str] = {}


class Output(pydantic.BaseModel):
    """A record that an item becomes.

    Attributes:
      task: name of its template.
      fields: of the record, each a path; {each, ...} makes a list of objects from rounds.
      when: as of a gate; where it does not hold, the item has no such record.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    task: str
    fields: dict[str, str | dict[str, str]]
    when: Condition = {}


class Limit(pydantic.BaseModel):
    """How large a share of the records may be of one kind: each value of `by`, or empty `empty`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    by: str = ""
    empty: str = ""
    most: float = pydantic.Field(gt=0, le=1)


class Recipe(pydantic.BaseModel):
    """What `recipe.toml` holds, with the words of all prompts in place.

    Attributes:
      name: of the recipe.
      about: one line.
      inputs: fields of a seed: text, picture, graph (a scene graph), steps (drawn ones: a list
        of ins, des and a picture); with a question mark what may be missing.
      stage: in order.
      record: one or more.
      limit: shares of the records.
      unique: path of the text by which near-duplicates are found; a field of the seeds.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str
    about: str
    inputs: dict[str, Literal["text", "text?", "picture", "graph?", "steps"]]
    stage: list[Stage]
    record: list[Output] = pydantic.Field(min_length=1)
    limit: list[Limit] = []
    unique: str = "prompt"

    def stages(self) -> Iterator[Stage]:
        """All stages, those of rounds after the rounds they belong to."""
        yield from _flat(self.stage)

    def roles(self) -> list[str]:
        """Names of the roles in order of their first stage."""
        return list(dict.fromkeys(stage.role for stage in self.stages() if stage.role))

    def digest(self) -> str:
        """A short name for all that the recipe says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def _flat(stages: list[Stage]) -> Iterator[Stage]:
    for stage in stages:
        yield stage
        yield from _flat(stage.body)


def names() -> list[str]:
    """Names of the recipes that are shipped."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{FILE}"))


def folder_of(recipe: str) -> Path:
    """The folder of a shipped recipe or of a copy. Raises ValueError naming the nearest one."""
    for folder in (SHIPPED / recipe, Path(recipe)):
        if (folder / FILE).is_file():
            return folder
    near = difflib.get_close_matches(recipe, names(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names())}"
    raise ValueError(f"--recipe {recipe}: no recipe and no folder with {FILE}; {hint}")


def load(folder: Path) -> Recipe:
    """The recipe of a folder.

    Raises:
      ValueError: anything in it that cannot be; one line that names file, stage and remedy.
    """
    path = folder / FILE
    try:
        raw = tomllib.loads(texts.read(path))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}).") from None
    try:
        recipe = Recipe.model_validate(raw)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: {_fault(raw, error)}.") from None
    for stage in recipe.stages():
        if stage.prompt.endswith(".txt"):
            file = folder / stage.prompt
            if not file.is_file():
                raise ValueError(f"{path}, stage '{stage.name}': there is no prompt file {file}.")
            stage.prompt = texts.read(file).strip()
    try:
        check(recipe)
    except ValueError as error:
        raise ValueError(f"{path}, {error}.") from None
    return recipe


def _fault(raw: Mapping[str, Any], error: pydantic.ValidationError) -> str:
    """The first fault of a file, with the name of its stage and the nearest word."""
    first = error.errors(include_url=False)[0]
    place, value = list(first["loc"]), first.get("input")
    named, here = [], raw
    for part in place:
        here = here[part] if isinstance(here, list | Mapping) and _holds(here, part) else {}
        is_named = isinstance(part, int) and isinstance(here, Mapping)
        named.append(f"'{here.get('name', part + 1)}'" if is_named else str(part))
    known: list[str] = []
    if first["type"] == "extra_forbidden":
        known = list((Stage if "stage" in place or "body" in place else Recipe).model_fields)
        value = place[-1]
    elif first["type"] == "literal_error":
        known = str(first["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    shown = f" (it is {value!r})" if first["type"] == "literal_error" else ""
    return f"{' '.join(named)}: {first['msg']}{shown}{hint}"


def _holds(here: Any, part: Any) -> bool:
    return part in here if isinstance(here, Mapping) else isinstance(part, int) and part < len(here)


def check(recipe: Recipe) -> None:
    """Walks a recipe without calling anybody. Raises ValueError naming stage, field and remedy."""
    seen: set[str] = set()
    for stage in recipe.stages():
        if stage.name in seen:
            raise ValueError(f"stage '{stage.name}': the name is there twice")
        seen.add(stage.name)
    scope = Scope({name: _INPUTS.get(kind, kind) for name, kind in recipe.inputs.items()})
    _walk(recipe.stage, scope, inside=False)
    if recipe.unique not in recipe.inputs:
        raise ValueError(f"unique: '{recipe.unique}' is no field of the inputs")
    for output in recipe.record:
        if output.task not in TEMPLATES:
            near = difflib.get_close_matches(output.task, TEMPLATES, n=1)
            raise ValueError(f"record: no template '{output.task}'" + _hint(near))
        place = f"record '{output.task}'"
        for path in output.when:
            scope.kind(path, place)
        for name, value in output.fields.items():
            if isinstance(value, str):
                scope.kind(value, f"{place}, field '{name}'")
            elif "each" not in value:
                raise ValueError(f"{place}, field '{name}': a list needs 'each', the rounds")
            else:
                for inner in [p for key, p in value.items() if key != "each"]:
                    scope.rounds(value["each"], inner, f"{place}, field '{name}'")
    for limit in recipe.limit:
        if bool(limit.by) == bool(limit.empty):
            raise ValueError("limit: give 'by' or 'empty'")
        scope.kind(limit.by or limit.empty, "limit")


def _hint(near: list[str]) -> str:
    return f"; did you mean '{near[0]}'?" if near else ""


_INPUTS: dict[str, Any] = {
    "graph?": "any",
    "steps": [{"ins": "text", "des": "text", "image": "picture"}],
}
_NEEDS = {
    "ask": ("role", "prompt"),
    "draw": ("role", "prompt"),
    "edit": ("role", "prompt", "images"),
    "compare": ("role", "prompt", "before", "after"),
    "gate": ("when",),
    "leave": ("when",),
    "rounds": ("body",),
    "program": ("run",),
}


def _walk(stages: list[Stage], scope: Scope, inside: bool) -> None:
    for stage in stages:
        place = f"stage '{stage.name}'"
        for need in _NEEDS[stage.kind]:
            if not getattr(stage, need):
                raise ValueError(f"{place}: kind '{stage.kind}' needs '{need}'")
        if stage.kind == "leave" and not inside:
            raise ValueError(f"{place}: only rounds can be left")
        if stage.kind == "rounds":
            _rounds(stage, scope, place)
            continue
        try:
            used = fields_of(stage.prompt)
        except ValueError as error:
            raise ValueError(f"{place}, prompt: {error}") from None
        for path in used:
            if scope.kind(path, f"{place}, prompt") == "picture":
                raise ValueError(f"{place}, prompt: '{path}' is a picture; name it in 'images'")
        for path in [*stage.images, stage.before, stage.after]:
            kind = scope.kind(path, f"{place}, images") if path else "any"
            if kind not in ("picture", "any", _INPUTS["steps"]):
                raise ValueError(f"{place}, images: '{path}' is no picture")
        for path in [*stage.when, *stage.only, *([stage.given] if stage.given else [])]:
            scope.kind(path, f"{place}, when")
        scope.add(stage.name, _result(stage, scope, place))


def _result(stage: Stage, scope: Scope, place: str) -> Any:
    """The kind of value that a stage makes, None where it makes none."""
    if stage.kind in ("draw", "edit"):
        return "picture"
    if stage.kind == "compare":
        return {"winner": "text"}
    if stage.kind == "ask":
        if stage.answer:
            try:
                Shape(stage.name, stage.answer)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
        return dict(stage.answer) or "text"
    if stage.kind == "program":
        if stage.run not in PROGRAMS:
            near = difflib.get_close_matches(stage.run, PROGRAMS, n=1)
            raise ValueError(f"{place}: no program '{stage.run}'" + _hint(near))
        kinds = [scope.kind(path, f"{place}, values") for path in stage.values]
        try:
            PROGRAMS[stage.run].check(stage.values, kinds)
        except ValueError as error:
            raise ValueError(f"{place}, values: {error}") from None
        return PROGRAMS[stage.run].makes
    return None


def _rounds(stage: Stage, scope: Scope, place: str) -> None:
    if stage.over:
        scope.add("item", scope.element(stage.over, place))
    for name, path in stage.start.items():
        scope.add(name, scope.kind(path, f"{place}, start") if path else "picture")
    before = set(scope.names())
    _walk(stage.body, scope, inside=True)
    for name, path in stage.next.items():
        scope.kind(path, f"{place}, next")
        if name not in stage.start:
            raise ValueError(f"{place}, next: '{name}' has no value before the first round")
    if not stage.over and not any(each.kind == "leave" for each in stage.body):
        raise ValueError(f"{place}: rounds without 'over' need a stage of kind 'leave'")
    made = {name: scope.kind(name, place) for name in scope.names() if name not in before}
    scope.add(stage.name, [made | ({"item": scope.kind("item", place)} if stage.over else {})])
