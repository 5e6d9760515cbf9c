"""Keys of a values file with type, defaults and meaning: those of the loop (`selfImprovement`) and the chart's own.

What belongs here: walking the models that validate the keys, beside the comments of values.yaml. What must not: a meaning that stands in neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from predator_si.contour import ContourValues
from predator_si.contour_types import Block
from predator_si.reference.markdown import in_words, models_in, prose, said_of_fields, table
from predator_si.settings import CHART
from predator_si.values import BLOCK

_LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


@dataclass(frozen=True)
class Key:
    """One key. ``group`` is true where it only holds others; ``local`` is the default of contour local, ``common`` what values.yaml says, both as YAML."""

    path: str
    type: str
    local: str
    common: str
    meaning: str
    group: bool = False


def keys() -> list[Key]:
    """Every key below `selfImprovement`, groups before what they hold, in the order of the model."""
    file = CHART / "values.yaml"
    local = {BLOCK: ContourValues().model_dump(mode="json", by_alias=True)}
    return list(_walk(ContourValues, BLOCK, comments(file), local, yaml.safe_load(file.read_text(encoding="utf-8"))))


def comments(file: Path) -> dict[str, str]:
    """Key with its dots -> what the rest of its line and the deeper comment lines right below it say."""
    said: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        key = re.match(r"^( *)(\w+):(.*)$", line)
        if key:
            above = [(indent, name) for indent, name in above if indent < len(key[1])] + [(len(key[1]), key[2])]
            comment = re.search(r"\s#\s*(.*)$", re.sub(r'"[^"]*"', "", key[3]))
        else:
            below = re.match(r"^( +)#\s*(.*)$", line)
            comment = re.match(r"^ +#\s*(.*)$", line) if below and above and len(below[1]) > above[-1][0] else None
        if comment:
            path = ".".join(name for _, name in above)
            said[path] = f"{said.get(path, '')} {comment[1]}".strip()
    return said


def _walk(model: type[BaseModel], path: str, said: Mapping[str, str], local: Any, common: Any) -> Iterator[Key]:
    fields = said_of_fields(model)
    own = model.model_construct().model_dump(mode="json", by_alias=True, warnings=False)
    for name, field in model.model_fields.items():
        alias = field.alias or name
        here = f"{path}.{alias}"
        blocks = models_in(field.annotation, Block)
        meaning = fields.get(name) or said.get(here) or (prose(blocks[0].__doc__) if blocks else "")
        default = at(local, here)
        if default is None:
            default = "(must be said)" if field.is_required() else "" if blocks and own[alias] else _yaml(own[alias])
        yield Key(here, _type(field), default, at(common, here) or "", meaning, group=bool(blocks))
        for block in blocks:
            yield from _walk(block, here + _below(field.annotation), said, local, common)


def _type(field: FieldInfo) -> str:
    bounds = [(word, getattr(mark, sign, None)) for mark in field.metadata for sign, word in _LIMITS.items()]
    limits = [f"{word} {bound:g}" for word, bound in bounds if isinstance(bound, (int, float))]
    return in_words(field.annotation) + (f" ({', '.join(limits)})" if limits else "")


def _below(annotation: Any) -> str:
    """How an entry of a mapping or of a list is written in a path."""
    origins = [getattr(one, "__origin__", None) for one in (annotation, *get_args(annotation))]
    return ".<name>" if dict in origins else "[]" if tuple in origins else ""


def at(tree: Any, path: str) -> str | None:
    """What a tree of values holds at ``path``, as YAML; "" where it holds other keys, null where it has no such key."""
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return None
        tree = tree[part]
    return "" if isinstance(tree, dict) and tree else _yaml(tree)


def _yaml(value: Any) -> str:
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=10_000).replace('...', '').strip()}`"


def settings_page() -> str:
    """`reference/settings.md`."""
    parts = [
        "# Keys of a contour\n",
        "What stands below `selfImprovement` in a values file. `default` is what contour `local` takes without any file, `in values.yaml` what every",
        "other contour starts from; its own file is laid over that, and the file named with `--values` over both. A key that does not exist is refused,",
        "with the nearest one that does. Durations are a number with a unit: `90s`, `10m`, `4h`, `7d`. The four keys of `features` may also stand one",
        "level higher.\n",
    ]
    rows: list[Key] = []
    for key in keys():
        if key.group and key.path.count(".") == 1:
            parts += [*_keys(rows), f"## {key.path.removeprefix(f'{BLOCK}.')}\n", f"{key.meaning}\n"]
            rows = []
        elif key.path.count(".") == 1 and rows and rows[-1].path.count(".") > 1:
            parts += [*_keys(rows), "## Further keys\n"]
            rows = [key]
        else:
            rows.append(key)
    return "\n".join([*parts, *_keys(rows)])


def _keys(rows: list[Key]) -> list[str]:
    head = ("key", "values", "default", "in values.yaml", "meaning")
    cells = [(f"`{key.path.removeprefix(f'{BLOCK}.')}`", "" if key.group else key.type, key.local, key.common, key.meaning) for key in rows]
    return [table(head, cells)] if cells else []


def chart_page() -> str:
    """`reference/chart.md`."""
    file = CHART / "values.yaml"
    said, common = comments(file), yaml.safe_load(file.read_text(encoding="utf-8"))
    paths = list(_paths({name: below for name, below in common.items() if name != BLOCK}))
    rows = [(f"`{path}`", at(common, path) or "", said.get(path, "")) for path in paths if path in said or at(common, path)]
    return "\n".join(
        (
            "# The chart's own values\n",
            "What stands beside `selfImprovement` in `values.yaml` of the chart predator-umbrella; of it the loop reads the bounds of the copies alone.",
            "`values.schema.json` refuses any other key.\n",
            table(("key", "default", "meaning"), rows),
        )
    )


def _paths(tree: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Every key of a tree with its dots, groups before their keys."""
    for name, below in tree.items():
        yield above + name
        if isinstance(below, dict):
            yield from _paths(below, f"{above}{name}.")
