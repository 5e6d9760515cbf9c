"""HTML of the reports: one file, no scripts, no outside address, light and dark by the reader's setting. All text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from predator_si.reports.plots import Theme, data_url

STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--ink:#1f2430;--faint:#5d6675;--line:#e3e6eb;--accent:#0f766e;--good:#166534;--good-back:#dcfce7;
--bad:#b91c1c;--bad-back:#fee2e2;--open:#854d0e;--open-back:#fef3c7}
@media (prefers-color-scheme:dark){:root{--back:#0f131a;--card:#171b24;--ink:#e5e7eb;--faint:#9aa3b2;--line:#2b3240;--accent:#2dd4bf;--good:#86efac;
--good-back:#12331f;--bad:#fca5a5;--bad-back:#3b1518;--open:#fcd34d;--open-back:#362a10}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1000px;margin:0 auto;padding:28px 18px 60px}
header h1{font-size:25px;line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
header p{margin:0 0 20px;color:var(--faint)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:0 0 16px}
h2{font-size:17px;margin:0 0 12px}h3{font-size:13px;margin:18px 0 6px;color:var(--faint);font-weight:600}
p{margin:0 0 10px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-size:12px;font-weight:600;text-align:left;color:var(--faint);padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:bottom}
td{padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:break-word}
tbody tr:last-child td{border-bottom:0}
td.num,th.num{text-align:right;white-space:nowrap}
.big td{padding:11px 12px 11px 0}.big td.num{font-size:19px}.big td:first-child{font-weight:600}
small{display:block;font-size:12px;color:var(--faint);font-weight:400;white-space:normal}
.pill{display:inline-block;border-radius:999px;padding:1px 10px;font-size:12.5px;font-weight:600;margin:0 6px 4px 0;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
.pill.good{background:var(--good-back)}.pill.bad{background:var(--bad-back)}.pill.open{background:var(--open-back)}.pill.plain{background:var(--line);color:var(--faint)}
img{max-width:100%;height:auto;border-radius:8px;display:block;margin:8px 0}
code{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
a{color:var(--accent)}
@media print{body{background:#fff}section{break-inside:avoid}}
"""


class Markup(str):
    """Text that is HTML already: only this module's functions make it."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """Anything as escaped text; :class:`Markup` stays."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def joined(parts: Iterable[Any], between: str = "") -> Markup:
    """Parts one after another, each escaped."""
    return Markup(text(between).join(text(part) for part in parts))


def element(name: str, *content: Any, **attributes: str) -> Markup:
    """``<name attributes>content</name>``; ``class_`` stands for ``class``."""
    marks = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{marks}>{joined(content)}</{name}>")


def pill(label: Any, colour: str = "plain") -> Markup:
    """A small coloured label: good, bad, open or plain."""
    return element("span", label, class_=f"pill {colour}")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: Sequence[int] = (), class_: str = "") -> Markup:
    """A table that scrolls sideways on a narrow screen; columns in ``numbers`` are set to the right."""
    kind = dict.fromkeys(numbers, "num")
    cells = [element("th", name, scope="col", class_=kind.get(index, "")) for index, name in enumerate(head)]
    body = [element("tr", *(element("td", cell, class_=kind.get(index, "")) for index, cell in enumerate(row))) for row in rows]
    inner = element("table", element("thead", element("tr", *cells)), element("tbody", *body), class_=class_)
    return element("div", inner, class_="scroll")


def picture(draw: Callable[[Theme], bytes], alt: str) -> Markup:
    """A plot in both themes; the reader's setting chooses."""
    light, dark = data_url(draw("light")), data_url(draw("dark"))
    alternative = html.escape(alt)
    return Markup(f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}" alt="{alternative}"></picture>')


def section(title: str, *content: Any) -> Markup:
    """A card with a heading."""
    return element("section", element("h2", title), *content)


def page(title: str, lang: str, content: Markup) -> str:
    """The whole file. The policy in its head forbids the browser to load anything from anywhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="{html.escape(lang)}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )
