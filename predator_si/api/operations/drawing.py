"""Templates with their words: everything that comes from data is escaped here, by default and without exception.

What belongs here: the Jinja environment. What must not: reading, words.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from predator_si.api.operations import figures
from predator_si.api.operations.texts import LANGUAGES, Language, phrase
from predator_si.records import utc_now

if TYPE_CHECKING:
    from jinja2 import Environment


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Templates of this package; autoescaped, and an unknown name is an error instead of nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("predator_si.api.operations"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    made.filters |= {"moment": figures.moment, "short": figures.short, "as_json": _as_json}
    return made


def draw(template: str, lang: Language, **content: Any) -> str:
    """A page in a language.

    Parameters
    ----------
    content
        What the template names; ``loop``, ``me`` (the caller), ``path`` and ``query`` are those of the frame, ``here`` whether the reader
        sits at this machine, so that its other ports can be reached.
    """

    def link(path: str, **query: Any) -> str:
        asked = urlencode({key: value for key, value in query.items() if value not in (None, "")})
        return f"{path}?{asked}" if asked else path

    words = {
        "lang": lang,
        "other": next(one for one in LANGUAGES if one != lang),
        "t": lambda key: phrase(key, lang),
        "number": lambda value, unit="": figures.number(value, lang, unit),
        "span": lambda length: figures.span(length, lang),
        "spark": lambda values, limit, name, unit: figures.sparkline(values, limit, name, lang, unit),
        "link": link,
        "drawn_at": utc_now(),
    }
    return environment().get_template(template).render(**words, **content)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
