"""Reading the `selfImprovement` block of Helm values files, with the line of every key, so that a wrong one can be pointed at.

What belongs here: YAML with positions, layering as Helm does it, the two spellings of the feature switches. What must not: the meaning of
a key (settings.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from predator_si.errors import BadInput

BLOCK = "selfImprovement"
FEATURES = ("autoPromote", "abTesting", "abSplitRatio", "rollbackOnDegrade")
_DEEPEST = 12
"""Nesting that no honest values file reaches; also what ends an alias that contains itself."""

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where a key stands."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Values:
    """A tree of values and, for each path in it, where it was written last."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, Place] = field(default_factory=dict)

    def place(self, path: Iterable[object]) -> Place | None:
        """Where ``path`` was written, or its nearest parent that was."""
        parts = tuple(str(part) for part in path)
        while parts:
            if parts in self.places:
                return self.places[parts]
            parts = parts[:-1]
        return None


def read_block(file: Path) -> Values:
    """The `selfImprovement` block of a values file, its feature switches in their nested spelling.

    Other blocks of the file belong to the chart and are left alone.

    Raises
    ------
    BadInput
        The file is missing, unreadable or malformed, has no such block, repeats a key, or spells a switch in two ways that differ.
    """
    node = _compose(file)
    values = Values()
    if not isinstance(node, yaml.MappingNode):
        raise BadInput(f"{file}:1: a values file is a mapping with the block {BLOCK!r}.")
    found = {key: (place, child) for key, place, child in _entries(node, file)}
    if BLOCK not in found:
        near = difflib.get_close_matches(BLOCK, found, n=1)
        raise BadInput(f"{found[near[0]][0]}: did you mean {BLOCK!r} instead of {near[0]!r}?" if near else f"{file}: there is no block {BLOCK!r} in it.")
    place, block = found[BLOCK]
    if not isinstance(block, yaml.MappingNode):
        raise BadInput(f"{place}: {BLOCK!r} must be a mapping of settings.")
    values.tree.update(_mapping(block, file, (), values.places))
    _nest_features(values)
    return values


def read_beside(file: Path, name: str) -> Values:
    """A block of the chart's own, beside `selfImprovement`; empty where the file has none.

    Raises
    ------
    BadInput
        As :func:`read_block`, or the block is no mapping.
    """
    node, values = _compose(file), Values()
    for key, place, child in _entries(node, file) if isinstance(node, yaml.MappingNode) else ():
        if key == name:
            if not isinstance(child, yaml.MappingNode):
                raise BadInput(f"{place}: {name!r} must be a mapping.")
            values.tree.update(_mapping(child, file, (), values.places))
    return values


def overlay(base: Values, over: Values) -> Values:
    """``over`` laid on ``base`` as Helm does it: mappings merge, everything else replaces, and a null removes the key below it."""
    places = dict(base.places)
    tree = _merge(base.tree, over.tree, (), places, over.places)
    return Values(tree, places)


def unknown_key(path: KeyPath, known: Iterable[str], place: Place | None) -> BadInput:
    """The error for a key that no setting has, with the nearest one that exists."""
    options = sorted(known)
    near = difflib.get_close_matches(path[-1], options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(options)}."
    return BadInput(f"{place or 'settings'}: unknown key {'.'.join((BLOCK, *path))!r}; {hint}")


# --------------------------------------------------------------------------- YAML nodes


def _compose(file: Path) -> yaml.Node | None:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput(f"{file}: no such values file.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{file}:{line}: not UTF-8 text; save the file as UTF-8.") from error
    except OSError as error:
        raise BadInput(f"{file}: cannot be read ({error.strerror}).") from error
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(f"{file}:{mark.line + 1 if mark else 1}: malformed YAML: {error.problem or error.context}.") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise BadInput(f"{file}:{line}: malformed YAML: {error.reason}.") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{file}:1: malformed YAML: {error}.") from error


def _entries(node: yaml.MappingNode, file: Path) -> list[tuple[str, Place, yaml.Node]]:
    constructor = yaml.constructor.SafeConstructor()
    try:
        constructor.flatten_mapping(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or node.start_mark
        raise BadInput(f"{file}:{mark.line + 1}: malformed YAML: {error.problem}.") from error
    seen: dict[str, Place] = {}
    entries = []
    for key_node, child in node.value:
        place = Place(file, key_node.start_mark.line + 1)
        key = key_node.value
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise BadInput(f"{place}: the key {key!r} is not text; put it in quotes if it is meant to be.")
        if key in seen:
            raise BadInput(f"{place}: the key {key!r} stands here twice, first at {seen[key]}; remove one.")
        seen[key] = place
        entries.append((key, place, child))
    return entries


def _mapping(node: yaml.MappingNode, file: Path, path: KeyPath, places: dict[KeyPath, Place]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, place, child in _entries(node, file):
        if len(path) >= _DEEPEST:
            raise BadInput(f"{place}: nested deeper than any setting is.")
        places[(*path, key)] = place
        tree[key] = _value(child, file, (*path, key), places)
    return tree


def _value(node: yaml.Node, file: Path, path: KeyPath, places: dict[KeyPath, Place]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, file, path, places)
    if isinstance(node, yaml.SequenceNode):
        if len(path) >= _DEEPEST:
            raise BadInput(f"{file}:{node.start_mark.line + 1}: nested deeper than any setting is.")
        return [_value(child, file, (*path, str(index)), places) for index, child in enumerate(node.value)]
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.MarkedYAMLError, ValueError) as error:
        raise BadInput(f"{file}:{node.start_mark.line + 1}: {node.value!r} cannot be read as a value ({error}).") from error


# --------------------------------------------------------------------------- spellings and layers


def _nest_features(values: Values) -> None:
    """Move the flat spelling of the four feature switches under `features`; the two spellings may not contradict each other."""
    features = values.tree.get("features")
    for key in FEATURES:
        if key not in values.tree:
            continue
        if features is not None and not isinstance(features, dict):
            raise BadInput(f"{values.places[('features',)]}: {BLOCK}.features must be a mapping of switches.")
        flat, place = values.tree.pop(key), values.places.pop((key,))
        features = values.tree.setdefault("features", {}) if features is None else features
        nested_path = ("features", key)
        if key in features and features[key] != flat:
            raise BadInput(
                f"{place} says {key}: {flat!r}, {values.places[nested_path]} says features.{key}: {features[key]!r}; the two are one setting, keep one of them."
            )
        features[key] = flat
        values.places.setdefault(nested_path, place)
        values.places.setdefault(("features",), place)


def _merge(
    base: Mapping[str, Any], over: Mapping[str, Any], path: KeyPath, places: dict[KeyPath, Place], over_places: Mapping[KeyPath, Place]
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        here = (*path, key)
        if here in over_places:
            places[here] = over_places[here]
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merge(below if isinstance(below, Mapping) else {}, value, here, places, over_places)
        else:
            places.update({at: place for at, place in over_places.items() if at[: len(here)] == here})
            merged[key] = value
    return merged
