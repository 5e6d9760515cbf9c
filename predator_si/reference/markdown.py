"""Markdown of the reference pages: tables, types as people write them, and what is said of a field in its class.

What belongs here: turning names, types and docstrings into text. What must not: what a page is about.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", datetime: "time", timedelta: "duration", type(None): "null"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; lines and bars inside a cell do not break it."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """``text`` on one line, without a bar that would end the cell and, outside code, without what a browser would take for a tag."""
    parts = re.sub(r"\s+", " ", text).strip().replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def prose(text: str | None) -> str:
    """The first paragraphs of a docstring, up to its first section, with Markdown's quotes instead of Sphinx's."""
    text = inspect.cleandoc(text or "")
    text = re.split(r"\n\w[\w ]*\n-{3,}", text)[0]
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text).strip()


def said_of_fields(model: type) -> dict[str, str]:
    """Field -> the docstring below it, of the class and those that it inherits from."""
    said: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if one.__module__.startswith("pydantic") or one is object:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0]
        except (OSError, TypeError):
            continue
        if not isinstance(body, ast.ClassDef):
            continue
        for field, text in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)):
                continue
            if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
                said[field.target.id] = prose(text.value.value)
    return said


def in_words(annotation: Any) -> str:
    """A type as a reader of a values file or of a JSON file would say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(one) for one in inner))
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin in (tuple, list, frozenset, set, Sequence):
        if origin is tuple and inner and inner[-1] is not ...:
            return "[" + ", ".join(in_words(one) for one in inner) + "]"
        return f"list of {in_words(inner[0])}" if inner else "list"
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        return f"{in_words(inner[0])} -> {in_words(inner[1])}" if inner else "mapping"
    if annotation is Any:
        return "anything"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return ", ".join(f"`{one.value}`" for one in annotation)
    return f"`{getattr(annotation, '__name__', annotation)}`"


def models_in(annotation: Any, base: type[BaseModel]) -> list[type[BaseModel]]:
    """Models of kind ``base`` that a type is made of."""
    if inspect.isclass(annotation) and not get_args(annotation):
        return [annotation] if issubclass(annotation, base) else []
    return [found for one in get_args(annotation) for found in models_in(one, base)]
