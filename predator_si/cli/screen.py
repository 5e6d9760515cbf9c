"""What the commands print: tables and progress for people, one JSON object for machines.

What belongs here: how things look. What must not: what they mean.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from predator_si.errors import BadInput

SILENT_SECONDS = 2.0
"""Work that takes longer than this gets a progress bar."""

OnProgress = Callable[[int, int], None]


def out() -> Console:
    """Standard output, where answers go."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err() -> Console:
    """Standard error, where progress and remarks go, so that `--json` stays clean."""
    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line of answer, as it is: no markup, no wrapping."""
    out().print(text, markup=False, soft_wrap=True)


def remark(text: str) -> None:
    """One line beside the answer, on standard error."""
    err().print(text, markup=False, soft_wrap=True)


def show_json(content: Mapping[str, Any] | Sequence[Any], file: Path | None = None) -> None:
    """Print one JSON value, or write it to ``file``; ``-`` is standard output. Infinite numbers become null.

    Raises
    ------
    BadInput
        The file cannot be written.
    """
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    if file is None or str(file) == "-":
        sys.stdout.write(text + "\n")
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: cannot be written ({error.strerror}); name another file with --json.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(child) for child in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table for people; ``empty`` is said instead where there are no rows."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*("-" if cell is None else _escaped(str(cell)) for cell in row))
        count += 1
    if count:
        out().print(table)
    else:
        say(empty)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


@contextmanager
def progress(label: str) -> Iterator[OnProgress]:
    """A callback ``on_progress(done, total)``; a bar appears on standard error once the work has lasted two seconds."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err(), transient=True)
    task = bar.add_task(label, total=None)
    late = threading.Timer(SILENT_SECONDS, bar.start)
    late.daemon = True
    late.start()

    def report(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        late.cancel()
        late.join()
        if bar.live.is_started:
            bar.stop()


@contextmanager
def stages() -> Iterator[tuple[Callable[[str], None], OnProgress]]:
    """Two callbacks for long work in stages: one that names the next stage, one that says how far it is; both on standard error."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(text: str) -> None:
            bar.console.print(text, markup=False, soft_wrap=True)
            bar.reset(task, description=text, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell, report
