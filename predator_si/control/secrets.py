"""What must never be written down: tokens, passwords, addresses with a password in them.

What belongs here: knowing them by their looks. What must not: what identifies people (``privacy``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRETS = (
    (re.compile(r"psi_[a-z0-9]{8}_[A-Za-z0-9_-]+"), "psi_***"),
    (re.compile(r"(?i)(bearer\s+)\S+"), r"\1***"),
    (re.compile(r"(://[^\s/:@]+:)[^\s/@]+@"), r"\1***@"),
    (re.compile(r"(?i)((?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&}]+"), r"\1***"),
    (re.compile(r"https://hooks\.slack\.com/\S+"), "https://hooks.slack.com/***"),
)
_NAMES = re.compile(r"(?i)(?:.*[_-])?(?:password|passwd|secret|token|api[_-]?key)")


def redacted(text: str) -> str:
    """The text without what looks like a token, a password or a webhook's address; the same again for a text that was redacted before."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def redacted_values(value: Any) -> Any:
    """Plain JSON whose texts are :func:`redacted`, also under keys that name a secret."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {key: "***" if isinstance(one, str) and one and _NAMES.fullmatch(str(key)) else redacted_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(one) for one in value]
    return value
