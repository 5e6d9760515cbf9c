"""The pictures of README and docs: a real webserver and the real API over a home, a real Chromium, and every word that the picture is there to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from predator_si.api.operations.texts import phrase
from predator_si.errors import Unavailable
from predator_si.proof import screenshot
from predator_si.proof.screenshot import operations, picture
from predator_si.settings import Settings
from predator_si_tests.support.browser import ABSENT, browser_is_here
from predator_si_tests.support.operations import lived_in

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.skipif(not browser_is_here(), reason=ABSENT)]
STORY = (
    "diagnostic_report", "chosen_action", "synthetic_dataset", "reranker_model", "optimized_reranker", "evaluation", "trial_decision", "trial_patch",
    "experiment_result", "release_decision", "helm_patch", "deployment", "watch",
)  # fmt: skip


def test_both_pictures_show_what_they_are_there_to_show(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = lived_in(settings)
    active = loop.control.active_cycle(loop.contour)
    assert active is not None
    with operations(settings) as page:  # one webserver for all of it: each start costs ten seconds
        from contextlib import contextmanager

        import httpx

        status = httpx.get(f"{page}/api/v1/optimizer/status", timeout=30, trust_env=False).json()
        assert not any("does not answer" in problem for problem in status["problems"]), "the API asks the webserver beside it"
        link = httpx.get(page, timeout=30, trust_env=False).text
        dagster = link.partition('<li><a href="http://127.0.0.1:')[2].partition('"')[0]

        @contextmanager
        def there(_: Settings):  # type: ignore[no-untyped-def]
            yield page

        @contextmanager
        def beside(_: Settings):  # type: ignore[no-untyped-def]
            yield f"http://127.0.0.1:{dagster}"

        monkeypatch.setattr(screenshot, "operations", there)
        monkeypatch.setattr(screenshot, "webserver", beside)
        words = [phrase(key, "en") for key in ("now_waiting", "approve", "gates", "kill_press", "champions")]
        file = picture(settings, tmp_path / "operations.png", "/?lang=en", (1280, 1600), active.cycle_id, site="operations", words=words)
        graph = picture(settings, tmp_path / "graph.png", words=STORY)
        with pytest.raises(Unavailable, match="no such words"):
            monkeypatch.setattr(screenshot, "_READY_SECONDS", 20.0)
            picture(settings, tmp_path / "none.png", "/?lang=en", last="no such words", site="operations")
    for one in (file, graph):
        with Image.open(one) as image:
            assert image.width > 1000 and image.height > 500
        assert one.stat().st_size < 300_000
    assert not (tmp_path / "none.png").exists()
