"""What a bi-encoder wants put before a query, as its folder records it.

What belongs here: reading that. What must not: the embedders themselves (``retrieve``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput


def recorded_prefix(folder: Path) -> str:
    """``query_prefix`` of ``source.json``, else ``prompts.query`` of ``config_sentence_transformers.json``; empty where the folder says nothing.

    Raises
    ------
    BadInput
        A file is not JSON.
    """
    for name, keys in (("source.json", ("query_prefix",)), ("config_sentence_transformers.json", ("prompts", "query"))):
        if not (folder / name).is_file():
            continue
        try:
            found: Any = json.loads((folder / name).read_text())
        except ValueError as error:
            raise BadInput(f"{folder / name}: not JSON ({error}). Fetch the model again.") from error
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str):
            return found
    return ""
