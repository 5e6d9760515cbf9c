"""Evidently's data-drift report on search events, written as one HTML file that needs no network."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.quiet import be_quiet

LEAST_ROWS = 20
ALPHA = 0.05
_METRIC = re.compile(r"^ValueDrift\(column=(?P<column>[^,]+),method=(?P<method>.+),threshold=(?P<threshold>[^,)]+)\)$")


def describe_requests(requests: pl.DataFrame) -> pl.DataFrame:
    """One row of numbers per search event.

    Latencies in ms (``latency_ms``, ``retrieve_ms``, ``rerank_ms``); ``top_score``, ``score_margin`` (first less second), ``results``
    (count); descriptors of the query text: ``query_characters``, ``query_words``, ``mean_word_length``, ``non_letter_share`` (digits, dots,
    underscores: how much of the query is code).
    """
    text = pl.col("user_query")
    words = text.str.strip_chars().str.split(" ").list.eval(pl.element().filter(pl.element() != "")).list
    scores = pl.col("results").list.eval(pl.element().struct.field("score")).list
    characters = text.str.len_chars()
    return requests.select(
        "latency_ms",
        "retrieve_ms",
        "rerank_ms",
        top_score=scores.get(0, null_on_oob=True),
        score_margin=scores.get(0, null_on_oob=True) - scores.get(1, null_on_oob=True),
        results=pl.col("results").list.len().cast(pl.Float64),
        query_characters=characters.cast(pl.Float64),
        query_words=words.len().cast(pl.Float64),
        mean_word_length=words.eval(pl.element().str.len_chars()).list.mean(),
        non_letter_share=pl.when(characters > 0).then(text.str.count_matches(r"[^\p{L}\s]") / characters),
    )


def write_quality_report(reference: pl.DataFrame, current: pl.DataFrame, path: Path) -> dict[str, Any]:
    """Compare two windows of search events column by column and write evidently's report to ``path``.

    Each column is tested by Kolmogorov-Smirnov at 0.05 divided by the number of columns (Bonferroni), so that a report on two equal windows
    shows a false drift one time in twenty at most, whatever the number of columns.

    Parameters
    ----------
    reference, current
        Search events (``search.events.SEARCH_SCHEMA``) of people's requests; at least 20 rows each.
    path
        The HTML file; its folder is made, an old file is replaced whole.

    Returns
    -------
    dict
        ``reference_rows``, ``current_rows``, ``columns`` [{column, method, p_value, threshold, drifted, reference_mean, current_mean}],
        ``drifted_columns`` [names], ``left_out`` [columns without values in one of the windows], ``report`` (file name).

    Raises
    ------
    BadInput
        A window has fewer than 20 requests.
    Unavailable
        The file cannot be written.
    """
    for frame, what in ((reference, "reference"), (current, "current")):
        if frame.height < LEAST_ROWS:
            raise BadInput(f"quality report: the {what} window has {frame.height} requests, at least {LEAST_ROWS} are needed; take a longer window.")
    sides = [describe_requests(reference), describe_requests(current)]
    usable = [name for name in sides[0].columns if all(side[name].drop_nulls().len() >= LEAST_ROWS for side in sides)]
    results, html = _evidently(sides[0].select(usable), sides[1].select(usable), ALPHA / len(usable))
    _write(path, html)
    columns = [
        {
            **found,
            "drifted": found["p_value"] < found["threshold"],
            "reference_mean": sides[0][found["column"]].mean(),
            "current_mean": sides[1][found["column"]].mean(),
        }
        for found in results
    ]
    return {
        "reference_rows": reference.height,
        "current_rows": current.height,
        "columns": columns,
        "drifted_columns": [found["column"] for found in columns if found["drifted"]],
        "left_out": [name for name in sides[0].columns if name not in usable],
        "report": Path(path).name,
    }


def _evidently(reference: pl.DataFrame, current: pl.DataFrame, threshold: float) -> tuple[list[dict[str, Any]], str]:
    be_quiet()  # evidently reads its telemetry switch while it is imported
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=reference.columns)
    data = [Dataset.from_pandas(frame.to_pandas(), data_definition=definition) for frame in (current, reference)]
    snapshot = Report([DataDriftPreset(num_method="ks", num_threshold=threshold)], include_tests=False).run(*data)
    found = []
    for metric in snapshot.dict()["metrics"]:
        name = _METRIC.match(metric["metric_name"])
        if name:
            found.append({"column": name["column"], "method": name["method"], "p_value": float(metric["value"]), "threshold": threshold})
    if len(found) != reference.width:
        raise BadInput(f"quality report: evidently reported {len(found)} of {reference.width} columns; its version has another naming. Install the pinned one.")
    return found, snapshot.get_html_str(as_iframe=False)


def _write(path: Path, html: str) -> None:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", suffix=".tmp", delete=False, encoding="utf-8") as stream:
            stream.write(html)
        Path(stream.name).replace(path)
        path.chmod(0o644)
    except OSError as error:
        raise Unavailable(f"{path}: the quality report cannot be written ({error}). Make the folder writable or free some space.") from error
