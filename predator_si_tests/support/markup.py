"""What a screen reader and a keyboard need of a page, read from its HTML: names, labels, headings, landmarks, and nothing that a strict policy forbids."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

_EMPTY = {"meta", "link", "input", "br", "img", "circle", "line", "polyline"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[tuple[str, dict[str, str]]] = []
        self.texts: list[list[str]] = []
        self.open: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.nodes.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append([])
        if tag not in _EMPTY:
            self.open.append(len(self.nodes) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.nodes.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.nodes[self.open[-1]][0] == tag, f"</{tag}> closes {self.nodes[self.open[-1]] if self.open else 'nothing'}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for node in self.open:
            self.texts[node].append(data)


def complaints(html: str) -> list[str]:
    """What is wrong with a page, in words; nothing where it is well made."""
    reader = _Reader()
    reader.feed(html)
    nodes = [(tag, attributes, "".join(text).strip()) for (tag, attributes), text in zip(reader.nodes, reader.texts, strict=True)]
    found = [f"<{reader.nodes[node][0]}> is never closed" for node in reader.open]
    ids = [attributes["id"] for _, attributes, _ in nodes if "id" in attributes]
    found += [f"id {one} stands twice" for one in sorted({one for one in ids if ids.count(one) > 1})]
    headings = [int(tag[1]) for tag, _, _ in nodes if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
    if headings.count(1) != 1:
        found.append(f"{headings.count(1)} h1")
    found += [f"h{below} follows h{above}" for above, below in pairwise(headings) if below > above + 1]
    found += [f"no <{tag}>" for tag in ("main", "header", "footer", "title") if not any(one == tag for one, _, _ in nodes)]
    labelled = {attributes.get("for") for tag, attributes, text in nodes if tag == "label" and text}
    for tag, attributes, text in nodes:
        if tag in ("input", "textarea", "select") and attributes.get("type") != "hidden" and attributes.get("id") not in labelled:
            found.append(f"{tag} {attributes} has no label")
        if tag in ("a", "button", "summary") and not text and "aria-label" not in attributes:
            found.append(f"{tag} {attributes} has no name")
        if tag == "a" and not attributes.get("href"):
            found.append(f"a link to nowhere: {text}")
        if tag == "th" and attributes.get("scope") not in ("col", "row"):
            found.append(f"th {text!r} heads nothing")
        if tag in ("section", "article", "nav") and not {"aria-label", "aria-labelledby"} & attributes.keys():
            found.append(f"{tag} {attributes} has no name")
        for pointer in ("aria-labelledby", "for", "aria-describedby"):
            if pointer in attributes and attributes[pointer] not in ids:
                found.append(f"{tag} {pointer}={attributes[pointer]} points nowhere")
        if tag == "html" and attributes.get("lang") not in ("en", "uk"):
            found.append("html has no language")
        if tag == "style" or (tag == "script" and (text or not attributes.get("src", "").startswith("/"))):
            found.append(f"<{tag}> inside the page")
        found += [f"{tag} {name}=" for name in attributes if name.startswith("on") or name == "style"]
        if attributes.get("href", "").strip().lower().startswith(("javascript:", "data:text")):
            found.append(f"{tag} runs a script: {attributes['href'][:40]}")
    return found
