"""Texts that go to a model and come back: fences around what strangers wrote, and the one JSON object of an answer.

What belongs here: form. What must not: any instruction to a model, any schema of an answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

_BLOCK = re.compile(r"\A\s*(?:```(?:json)?[ \t]*\n?)?(\{.*\})\s*(?:```)?\s*\Z", re.DOTALL)
_LONGEST = 20_000


def digest(*parts: str) -> str:
    """Sha256 of the parts and of where each ends: the same question has the same key, on every machine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def fenced(parts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The parts, (name, text) each, between lines with a mark; and the mark.

    The mark is made from a hash of the very texts that it encloses: who writes one of them cannot know the mark that would end it.
    """
    mark = digest("fence", *(text for _, text in parts))[:20]
    return "\n".join(f"--- {name} {mark}\n{text}\n--- end of {name} {mark}" for name, text in parts), mark


def one_object(text: str | None) -> dict[str, Any] | None:
    """The JSON object that a message is, alone or in a block of code; null for everything else.

    Words around it, a second object, a key that stands twice, numbers that JSON does not know, and more than 20,000 characters are something else.
    """
    if text is None or len(text) > _LONGEST or (found := _BLOCK.match(text)) is None:
        return None
    try:
        content = json.loads(found[1], object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
