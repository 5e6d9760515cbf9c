"""The reference pages of the documentation, made from the code that they describe: keys of a contour, commands, records, metrics and triggers.

What belongs here: reading models, commands and tables, and writing them as Markdown; the hook by which MkDocs takes them in (``site``). What must not: any
fact of its own. A page is never stored: `make docs` makes it anew, so that it cannot say something else than the code.
"""

from __future__ import annotations

from predator_si.reference.command_line import command_page
from predator_si.reference.keys import chart_page, settings_page
from predator_si.reference.nouns import metrics_page, records_page

PAGES = {
    "reference/settings.md": settings_page,
    "reference/chart.md": chart_page,
    "reference/commands.md": command_page,
    "reference/records.md": records_page,
    "reference/metrics-and-triggers.md": metrics_page,
}
"""Address in the site, and what makes the page."""

__all__ = ["PAGES", "chart_page", "command_page", "metrics_page", "records_page", "settings_page"]
