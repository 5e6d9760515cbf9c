"""Numbers, moments and small curves as people read them.

What belongs here: formatting. What must not: reading anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

from predator_si.api.operations.texts import Language, phrase

_WIDTH, _HEIGHT, _EDGE = 160.0, 36.0, 3.0


def number(value: float | None, lang: Language, unit: str = "") -> str:
    """Four significant digits at most, the language's own decimal mark, the unit after a space; ``unknown`` for null."""
    if value is None:
        return phrase("unknown", lang)
    size = abs(value)
    digits = 0 if value == 0 or size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4
    text = f"{value:,.{digits}f}" if size >= 0.0001 or value == 0 else f"{value:.2g}"
    if "." in text and "e" not in text:
        text = text.rstrip("0").rstrip(".")
    if lang == "uk":
        text = text.translate({ord(","): "\N{NO-BREAK SPACE}", ord("."): ","})
    text = text.replace("-", "\N{MINUS SIGN}")
    return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text


def moment(at: datetime | str | None) -> Markup:
    """``<time>`` to the minute, UTC; nothing for null."""
    if at is None:
        return Markup("")
    found = (datetime.fromisoformat(at) if isinstance(at, str) else at).astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(found.isoformat(timespec="seconds"), f"{found:%Y-%m-%d %H:%M}")


def span(length: timedelta, lang: Language) -> str:
    """A duration in its two largest units: ``2 d 4 h``, ``14 min``, ``8 s``."""
    seconds = max(0, round(length.total_seconds()))
    units = (("d", "д", 86400), ("h", "год", 3600), ("min", "хв", 60), ("s", "с", 1))
    parts: list[str] = []
    for english, ukrainian, size in units:
        count, seconds = divmod(seconds, size)
        if count or (parts and len(parts) < 2 and seconds):
            parts.append(f"{count}\N{NO-BREAK SPACE}{english if lang == 'en' else ukrainian}")
    return " ".join([part for part in parts if not part.startswith("0")][:2]) or ("0\N{NO-BREAK SPACE}s" if lang == "en" else "0\N{NO-BREAK SPACE}с")


def short(digest: str | None) -> str:
    """The first twelve digits of a digest or commit; empty for null."""
    return (digest or "").removeprefix("sha256:")[:12]


def sparkline(values: Sequence[float | None], limit: float | None, name: str, lang: Language, unit: str = "") -> Markup:
    """A curve of the newest windows as inline SVG without styles or scripts; unknown windows are gaps, the limit is dashed.

    Parameters
    ----------
    values
        Oldest first.
    limit
        Of the gate, in the unit of the values; null draws no line.
    name
        Of the metric, for those who do not see the picture.
    """
    known = [value for value in values if value is not None]
    if not known:
        title = phrase("spark_empty", lang).format(name=name)
        return Markup('<span class="faint">{}</span>').format(title)
    low, high = min([*known, *([limit] if limit is not None else [])]), max([*known, *([limit] if limit is not None else [])])
    room = high - low

    def x(index: int) -> float:
        return _EDGE + (_WIDTH - 2 * _EDGE) * (index / (len(values) - 1) if len(values) > 1 else 0.5)

    def y(value: float) -> float:
        return _HEIGHT / 2 if room == 0 else _HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * (value - low) / room

    runs: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{x(index):.1f},{y(value):.1f}")
    lines = "".join(f'<polyline points="{" ".join(run)}"/>' if len(run) > 1 else _dot(run[0]) for run in runs if run)
    last = max(index for index, value in enumerate(values) if value is not None)
    newest = known[-1]
    dashed = "" if limit is None else f'<line class="limit" x1="0" x2="{_WIDTH:g}" y1="{y(limit):.1f}" y2="{y(limit):.1f}"/>'
    numbers = {"low": number(min(known), lang, unit), "high": number(max(known), lang, unit), "last": number(newest, lang, unit)}
    title = phrase("spark", lang).format(name=name, n=len(values), **numbers)
    return Markup(
        f'<svg class="spark" role="img" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" width="{_WIDTH:g}" height="{_HEIGHT:g}" preserveAspectRatio="none">'
        f"<title>{escape(title)}</title>{dashed}{lines}{_dot(f'{x(last):.1f},{y(newest):.1f}')}</svg>"
    )


def _dot(place: str) -> str:
    x, _, y = place.partition(",")
    return f'<circle cx="{x}" cy="{y}" r="2"/>'
