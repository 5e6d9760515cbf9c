"""The restore that is drilled: a serving home is copied while requests come, lost, and put back elsewhere; the platform starts and goes on."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import httpx
import pytest

from predator_si.backup import create_backup, restore_backup
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.anchor import anchor_if_due, anchors_of, compare
from predator_si.proof.prepare import build_first_index
from predator_si.settings import Settings
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, open_cycle, prepare, tiny_scale, word_model

QUESTION = {"query": "a verified page", "k": 5}


def ask(loop: Loop) -> dict[str, object]:
    answer = httpx.post(f"{loop.search_url}/search", json=QUESTION, timeout=30, trust_env=False)
    answer.raise_for_status()
    found: dict[str, object] = answer.json()
    return found


def ids(answer: dict[str, object]) -> list[str]:
    return [one["object_id"] if "object_id" in one else one["doc_id"] for one in answer["results"]]  # type: ignore[attr-defined]


@pytest.mark.live
def test_a_lost_home_serves_again_from_its_backup(settings: Settings, tmp_path: Path):
    loop = Loop(on_free_port(settings))
    prepare(loop, word_model(loop, "champion", 4.0), tiny_scale())
    build_first_index(loop, part=None)
    cycle = open_cycle(loop.control).cycle_id
    anchor_if_due(loop)
    failed: list[Exception] = []
    over = threading.Event()

    def users() -> None:
        while not over.is_set():
            try:
                ask(loop)
            except httpx.HTTPError as error:
                failed.append(error)

    with machines(loop, embedder=loop.plan.embedder, load_reranker=load_word_reranker):
        before = ask(loop)
        user = threading.Thread(target=users)
        user.start()
        try:
            url, manifest = create_backup(loop.home, str(tmp_path / "store"), loop.contour)
        finally:
            over.set()
            user.join(30)
    assert failed == [] and manifest.ledger_seq == loop.control.head()[0]  # type: ignore[index]
    shutil.rmtree(loop.home.path)

    target = Home(tmp_path / "new machine" / "home")
    restored = restore_backup(url, target, actor="test")
    assert restored.missing == ()
    again = Loop(on_free_port(loop.settings.model_copy(update={"home": target.path})))
    assert again.control.verify() == [] and compare(again.control, anchors_of(again).read()) == []
    with machines(again, embedder=again.plan.embedder, load_reranker=load_word_reranker):
        after = ask(again)
        assert after["model_digest"] == before["model_digest"] == again.serving().model and ids(after) == ids(before)
        assert again.info()["variants"]["champion"]["model_sha"] == before["model_digest"]
    assert again.control.active_cycle("local").cycle_id == cycle  # type: ignore[union-attr]
    assert compare(again.control, anchors_of(again).read()) == []
