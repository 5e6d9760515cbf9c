"""Plots are small real PNGs, survive odd input, and refuse emptiness."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.records import Interval, Metric, MetricsSnapshot
from predator_si.reports import as_markdown, difference_histogram, latency_histogram, metric_history, ndcg_slices

START = datetime(2026, 11, 22, 8, tzinfo=UTC)
LIMIT_BYTES = 80_000


def snapshots(values: list[float | None]) -> list[MetricsSnapshot]:
    made = []
    for index, value in enumerate(values):
        end = START + timedelta(minutes=15 * index)
        metric = Metric(name="ndcg_at_10", value=value, n=100, ci_low=None if value is None else value - 0.02, ci_high=None if value is None else value + 0.02)
        made.append(
            MetricsSnapshot(
                snapshot_id=str(index), contour="local", created_at=end, window_start=end, window_end=end, champion=None, metrics={"ndcg_at_10": metric}
            )
        )
    return made


def image(png: bytes) -> np.ndarray:
    from PIL import Image

    assert png.startswith(b"\x89PNG") and len(png) < LIMIT_BYTES
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(picture: np.ndarray, colour: str) -> int:
    """Pixels of about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(axis=2) <= 24).sum())


@pytest.mark.parametrize(("theme", "back"), [("light", "#ffffff"), ("dark", "#171b24")])
def test_history_has_the_theme_and_marks_unknown_windows(theme, back):
    known = image(metric_history(snapshots([0.6, 0.61, 0.55]), "ndcg_at_10", theme=theme))
    gap = image(metric_history(snapshots([0.6, None, 0.55]), "ndcg_at_10", theme=theme))
    assert near(known, back) > 0.6 * known.shape[0] * known.shape[1]
    red = "#b91c1c" if theme == "light" else "#f87171"
    assert near(known, red) == 0 < near(gap, red)


def test_history_of_nothing_but_unknown_is_still_a_picture():
    image(metric_history(snapshots([None, None]), "ndcg_at_10", baseline=0.6, limit=0.58))
    with pytest.raises(BadInput, match="no snapshot"):
        metric_history([], "ndcg_at_10")


def test_slices_grow_with_their_number_up_to_a_limit():
    rows = [{"name": f"зріз {i} $x_{{", "n": 100 + i, "before": 0.5, "after": 0.55, "low": 0.01, "high": 0.09} for i in range(30)]
    few, many = image(ndcg_slices(rows[:3])), image(ndcg_slices(rows))
    assert few.shape[0] < many.shape[0] < 700
    with pytest.raises(BadInput, match="after"):
        ndcg_slices([{"name": "a", "n": 1, "before": 0.1}])


def test_latency_needs_one_positive_number():
    rng = np.random.default_rng(0)
    image(latency_histogram({"fp32": rng.lognormal(6, 0.4, 5000), "int8": rng.lognormal(4, 0.4, 5000)}))
    image(latency_histogram({"one": [12.0], "none": []}))
    with pytest.raises(BadInput, match="above zero"):
        latency_histogram({"a": [], "b": [0.0]})


def test_differences_with_and_without_an_interval():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(400) < 0.6, 0.0, rng.normal(0.02, 0.2, 400))
    image(difference_histogram(values, Interval(estimate=0.01, low=0.002, high=0.02, n=400)))
    image(difference_histogram(np.zeros(10)))
    with pytest.raises(BadInput, match="no query"):
        difference_histogram([float("nan")])


def test_markdown_carries_the_picture():
    png = difference_histogram([0.1, -0.1])
    text = as_markdown(png, "a [nice] plot")
    assert text.startswith("![a  nice  plot](data:image/png;base64,") and base64.b64decode(text.split("base64,")[1][:-1]) == png
