"""Reference of all recipe keys (docs/recipe-reference.md), from the typed models."""

import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.scripts.markdown import GENERATED, code, table
from mmbert.recipe import Phase, Recipe, format_quantity, load_recipe
from mmbert.recipe.named import find_recipe, recipe_names
from mmbert.recipe.quantities import Quantity
from mmbert.recipe.sections import MODEL_PRESETS, PRESET_KEYS, ModelSettings
from mmbert.recipe.units import Unit
from mmbert.schedule import PhasePlan, training_plan

_QUANTITY = set(map(type, get_args(Quantity)[1:]))
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", Path: "path"}
_BOUNDS = (
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.MultipleOf, "multiple_of", "multiple of"),
    (annotated_types.MinLen, "min_length", "at least"),
)

# Upper ends from here on keep arithmetic within 64 bits; no run reaches them.
_LARGEST_SHOWN = 10_000

_INTRODUCTION = """
# Recipe reference

Every key of a recipe with its type, default, unit and meaning, for people who write or change one.

## Loading

A recipe is one YAML file. Programs take the name of a packaged recipe or the path of a file; a
packaged recipe takes precedence over a file of the same name, which is given as `./demo`.

<!-- run -->
```bash
mmbert recipes                          # packaged recipes and language lists
mmbert recipes mmbert-base > my.yaml    # a copy to start from
```

Arguments of the form `KEY=VALUE` override keys on the command line. A key is dotted; entries of a
list are selected by `name` or position. A value is YAML:

<!-- parsed -->
```bash
mmbert plan mmbert-base phases.decay.mask_ratio=0.1 batch.growth=null
mmbert plan mmbert-base 'phases.decay.learning_rate={shape: linear, final: 0.1}'
```

- **Unknown keys** are refused, with the nearest known key. Errors name file, line and key.
- **Quantities** are whole numbers with an optional decimal suffix: `48k`, `1.5M`, `600B`, `2.3T`,
  `1_000`.
- **Relative paths**: `tokenizer.path` starts from the recipe's folder; so does `languages.file`,
  which may also name a packaged list; `initial_checkpoint` starts from the working directory.
- **Ranges** are in the column of types. Numbers are finite. Sizes and counts for which no
  upper end is shown have one that is far above any run (`phases.NAME.tokens`: 1,000,000T).
- **Keys with an empty default** are unset: `null`, an empty list or a section of defaults.

Short forms:

| Short | Long |
| --- | --- |
| `languages: all` | `languages: {all: true}` |
| `languages: [eng_Latn, swh]` | `languages: {names: [eng_Latn, swh]}` |
| `temperature: 0.5` | `temperature: {start: 0.5, end: 0.5}` |

A language is `iso639-3_Script`; an ISO 639-3 code alone stands for all of its scripts.
"""


def render() -> str:
    """Return the page."""
    parts = [GENERATED, _INTRODUCTION.lstrip("\n"), "## Keys\n", "### Whole run\n"]
    sections = {name: _model_in(field.annotation) for name, field in Recipe.model_fields.items()}
    parts.append(_key_table(next(_rows_of(Recipe, name, "")) for name in sections))
    for name, section in sections.items():
        if section is None:
            continue
        parts += [f"### {code(name)}\n", f"{_paragraph(section)}\n"]
        parts.append(_key_table(_section_rows(name, Recipe.model_fields[name], section)))
        if section is ModelSettings:
            parts += ["Sizes of the presets:\n", _presets()]
    parts += ["## Packaged recipes\n", *_packaged()]
    return "\n".join(parts)


def undocumented_keys(model: type[BaseModel] = Recipe) -> list[str]:
    """Return the dotted keys of the recipe, or of another model, without a meaning."""
    every = (row for name in model.model_fields for row in _rows_of(model, name, ""))
    return [key for key, *_, meaning in every if not meaning]


def _key_table(rows: Iterator[tuple[str, ...]]) -> str:
    shown = ([code(key), *rest] for key, *rest in rows)
    return table(("Key", "Type", "Default", "Unit", "Meaning"), shown)


def _section_rows(name: str, field: FieldInfo, section: type[BaseModel]) -> Iterator[Any]:
    prefix = f"{name}.{_index(field)}"
    for key in section.model_fields:
        yield from _rows_of(section, key, prefix)


def _rows_of(model: type[BaseModel], name: str, prefix: str) -> Iterator[tuple[str, ...]]:
    """Yield key, type, default, unit and meaning of a field, then of the fields below it."""
    field = model.model_fields[name]
    key = f"{prefix}{field.alias or name}"
    kind = _type(field.annotation, field.metadata)
    bounds = _bounds(field.metadata)
    described = f"{kind}{', ' if kind.startswith('list') else ' '}{bounds}" if bounds else kind
    if field.default is not None:
        described += _null(field.annotation)
    preset = model is ModelSettings and name in PRESET_KEYS
    default = "preset's" if preset else _default(field)
    meaning = field.description or ""
    yield key, described, default, _unit(field), meaning
    below = _model_in(field.annotation)
    if below is not None:
        yield from _section_rows(key, field, below)


def _index(field: FieldInfo) -> str:
    """Return how a dotted key continues into a field: `NAME.` for a list of named entries."""
    return "NAME." if get_origin(field.annotation) is tuple else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation is, or is optional or a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if hasattr(annotation, "__metadata__"):
        return _model_in(annotation.__origin__)
    if get_origin(annotation) in (tuple, Union, types.UnionType):
        return next(filter(None, map(_model_in, get_args(annotation))), None)
    return None


def _type(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    """Describe a type; `metadata` are the annotations that pydantic has taken off it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type(annotation.__origin__, annotation.__metadata__)
    if origin in (Union, types.UnionType):
        parts = [part for part in arguments if part is not type(None)]
        return " or ".join(f"{_type(part)} {_bounds(_metadata(part))}".strip() for part in parts)
    if origin is Literal:
        return ", ".join(code(str(value)) for value in arguments)
    if origin is tuple and Ellipsis in arguments:
        return f"list of {_plural(_type(arguments[0]))}"
    if origin is tuple:
        return f"list of {len(arguments)} {_plural(_type(arguments[0]))}"
    if origin is dict and arguments[1] is Any:
        return "mapping"
    if origin is dict:
        return f"mapping to {_plural(_type(arguments[1]))}"
    if _model_in(annotation):
        return "section"
    if annotation is int and set(map(type, metadata)) >= _QUANTITY:
        return "quantity"
    return _TYPES[annotation]


def _plural(name: str) -> str:
    if name == "quantity":
        return "quantities"
    return name if name.startswith("`") else f"{name}s"


def _null(annotation: Any) -> str:
    optional = get_origin(annotation) in (Union, types.UnionType)
    return ", or `null`" if optional and type(None) in get_args(annotation) else ""


def _metadata(annotation: Any) -> Iterator[Any]:
    """Yield the constraints of an annotated type."""
    for entry in getattr(annotation, "__metadata__", ()):
        yield from entry.metadata if isinstance(entry, FieldInfo) else (entry,)


def _bounds(metadata: Iterable[Any]) -> str:
    metadata, found = list(metadata), []
    for kind, attribute, sign in _BOUNDS:
        for entry in metadata:
            if isinstance(entry, kind):
                end = getattr(entry, attribute)
                if not (attribute in ("lt", "le") and end >= _LARGEST_SHOWN):
                    found.append(f"{sign} {_number(end)}")
    return ", ".join(found)


def _unit(field: FieldInfo) -> str:
    """Return the unit of a field, of its optional value or of the values of a mapping."""
    return next(_units(field.annotation, field.metadata), "")


def _units(annotation: Any, metadata: typing.Sequence[Any] = ()) -> Iterator[str]:
    for entry in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(entry, Unit):
            yield entry.name
    for part in get_args(annotation):
        yield from _units(part)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == () or isinstance(value, BaseModel):
        return ""
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple):
        plain = [
            entry.model_dump(exclude_defaults=True) if isinstance(entry, BaseModel) else entry
            for entry in value
        ]
        return code(yaml.safe_dump(plain, default_flow_style=True, width=1000).strip())
    if isinstance(value, int) and _type(field.annotation, field.metadata) == "quantity":
        return code(format_quantity(value))
    return code(_number(value) if isinstance(value, int | float) else str(value))


def _number(value: float) -> str:
    return f"{value:g}".replace("e-0", "e-")


def _paragraph(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip()


def _presets() -> str:
    rows = ([code(name), *map(str, sizes)] for name, sizes in MODEL_PRESETS.items())
    return table(("Preset", *map(code, PRESET_KEYS)), rows)


def _packaged() -> Iterator[str]:
    recipes = {name: load_recipe(name) for name in recipe_names()}
    firsts = {name: find_recipe(name).read_text("utf-8").partition("\n")[0] for name in recipes}
    about = ([code(name), first.removeprefix("# ")] for name, first in firsts.items())
    yield table(("Recipe", "Description"), about)
    yield "Their phases, without variants:\n"
    headings = (
        "Recipe", "Phase", "Tokens", "Steps", "Tokens per step", "Context", "Languages",
        "Temperature", "Mask ratio", "RoPE bases", "Learning rate",
    )  # fmt: skip
    rows = []
    for name, recipe in recipes.items():
        plans = training_plan(recipe).phases
        for phase, plan in zip(recipe.phases, plans, strict=True):
            rows.append([code(name), *_phase_cells(recipe, phase, plan)])
    yield table(headings, rows)


def _phase_cells(recipe: Recipe, phase: Phase, plan: PhasePlan) -> Iterator[str]:
    yield code(phase.name)
    yield format_quantity(phase.tokens)
    yield f"{plan.steps:,}"
    sizes = [stage.rows * recipe.batch.row_tokens for stage in (plan.stages[0], plan.stages[-1])]
    yield " → ".join(f"{size:,}" for size in dict.fromkeys(sizes))
    yield f"{phase.context:,}"
    yield _languages(phase)
    exponents = (phase.temperature.start, phase.temperature.end)
    yield " → ".join(f"{exponent:g}" for exponent in dict.fromkeys(exponents))
    yield f"{'causal ' if phase.causal else ''}{phase.predicted_fraction:g}"
    yield f"{phase.rotary_bases.global_:,g} / {phase.rotary_bases.local_:,g}"
    yield _learning_rate(recipe, phase)


def _languages(phase: Phase) -> str:
    selection = phase.languages
    if selection.all:
        return "all"
    parts = [f"{len(selection.names):,} named"] if selection.names else []
    if selection.minimum_tokens is not None:
        parts.append(f"≥ {format_quantity(selection.minimum_tokens)} tokens")
    if selection.minimum_bytes is not None:
        parts.append(f"≥ {format_quantity(selection.minimum_bytes)} bytes")
    return ", ".join(parts)


def _learning_rate(recipe: Recipe, phase: Phase) -> str:
    settings = phase.learning_rate
    parts = [_number(settings.peak or recipe.optimizer.learning_rate)]
    if settings.warmup:
        parts.append(f"warm-up {format_quantity(settings.warmup)}")
    if settings.shape != "constant":
        parts.append(f"{settings.shape} to {_number(settings.final)} of it")
    return ", ".join(parts)
