"""MkDocs' hook: gives the site its generated pages and its first page, and refuses what would be fetched from elsewhere.

What belongs here: what MkDocs asks for. What must not: what a page says.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from predator_si.reference import PAGES

ROOT = Path(__file__).resolve().parents[2]
_LOG = logging.getLogger("mkdocs.hooks.predator_si")
_FETCHED = re.compile(r"<(?:script|iframe|img|source|video|audio)\b[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*|<link\b[^>]*\shref=[\"']?(?:https?:)?//[^>]*", re.I)


def first_page() -> str:
    """README.md as the site's first page: links into docs/ become the site's, files outside it are named without a link."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|#)((?:\.\./)*(?:deploy|predator_si)[^)]*)\)", r"\1 (`\2`)", text)


def on_files(files: Any, config: Any) -> Any:
    """Add what is generated."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "index.md", content=first_page()))
    for address, make in PAGES.items():
        files.append(File.generated(config, address, content=make()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A second word after a fence's language is for our tests (`bash cluster`), not for the highlighter."""
    return re.sub(r"^(\s*```\w+) [a-z]+$", r"\1", markdown, flags=re.MULTILINE)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Warn, which ends a strict build, of whatever a browser would fetch from another machine."""
    for found in fetched_from_elsewhere(output):
        _LOG.warning("%s: would be fetched from another machine: %s", page.file.src_uri, found)
    return output


def fetched_from_elsewhere(html: str) -> list[str]:
    """Tags of a page by which a browser loads scripts, styles, fonts or pictures from another host; addresses of the page itself do not count."""
    return [tag for tag in _FETCHED.findall(html) if 'rel="canonical"' not in tag]
