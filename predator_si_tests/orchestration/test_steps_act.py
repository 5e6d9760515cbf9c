"""What an action of the trigger table finds in a home: other backends of the same weights, smaller models of earlier cycles. Tiny models, real exports."""

from __future__ import annotations

import json

import polars as pl
import pytest

from predator_si.evaluate import optimise as optimising
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import act
from predator_si.records import Cycle, ServingConfig, utc_now
from predator_si.release.deny import add_denied, deny_entries
from predator_si.search.rerank import reference_backend
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.settings import Settings
from predator_si_tests.orchestration.test_steps_recipes import home
from predator_si_tests.support.platform import open_cycle


@pytest.fixture
def loop(settings: Settings) -> Loop:
    return home(settings)


@pytest.fixture
def cycle(loop: Loop) -> Cycle:
    return open_cycle(loop.control, type="p95_latency_ms_up", metric="p95_latency_ms")


def dev(loop: Loop) -> pl.DataFrame:
    return loop.corpus.queries(split="dev", part="shift").head(20)


def model(loop: Loop, name: str, layers: int, length: int = 48) -> str:
    folder = tiny_cross_encoder(loop.home.path / name, ["words of a model"], seed=len(name), layers=layers, hidden=32, max_length=64)
    return loop.models.add(folder, name=name, backend="torch-fp32", max_length=length)


def test_the_same_weights_on_a_faster_backend_or_the_reason_why_not(loop: Loop, cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = loop.serving()
    monkeypatch.setattr(optimising, "fast_backends", lambda: (reference_backend(), "torch-bf16"))
    found = act._quantised(loop, cycle, champion, dev(loop))
    told = json.loads((loop.artifacts(cycle.cycle_id) / "optimisation.json").read_text())
    if isinstance(found, str):  # on this machine, now, the reference was the fastest that keeps the ranking
        assert told["chosen"] == champion.model or "already" in found
    else:
        [option] = found
        card = loop.models.card(option.config.model)
        assert option.action == "quantise" and card.source_digest == champion.model and card.backend in option.note
        assert (option.config.depth, option.config.fusion_weight, option.config.early_exit) == (champion.depth, champion.fusion_weight, False)
        assert told["chosen"] == option.config.model
    folder = tiny_cross_encoder(loop.home.path / "lost", ["words of a model"], seed=9, layers=2, hidden=32, max_length=64)
    orphan = loop.models.add(folder, name="an export", backend="onnx-int8", max_length=48, source_digest="sha256:" + "9" * 64)
    said = act._quantised(loop, cycle, ServingConfig(model=orphan, depth=8), dev(loop))
    assert isinstance(said, str) and "torch weights behind" in said and "cannot be tried" in said


def test_calibration_pairs_are_train_queries_with_what_is_found_for_them(loop: Loop) -> None:
    pairs = act._calibration(loop)
    train = set(loop.corpus.queries(split="train")["text"].to_list())
    sealed = {text for split in ("dev", "test") for text in loop.corpus.queries(split=split)["text"].to_list()}
    assert len(pairs) == 40 and {query for query, _ in pairs} <= train - sealed
    query, text = pairs[0]
    assert text == loop.index().candidates([query], 1)[0].texts[0]


def test_smaller_models_of_the_store_the_newest_first_and_never_a_denied_one(loop: Loop, cycle: Cycle) -> None:
    champion = loop.serving()
    assert act._stored(loop, cycle, champion, dev(loop)) == "the store holds no smaller model"
    small, tiny, wide = model(loop, "two layers", 2), model(loop, "one layer", 1), model(loop, "a longer input", 4, length=64)
    shorter = model(loop, "a shorter input", 4, length=32)
    found = act._stored(loop, cycle, champion, dev(loop))
    assert not isinstance(found, str)
    assert {option.config.model for option in found} == {small, tiny, shorter} and wide not in {option.config.model for option in found}
    assert all(option.action == "cheaper_variant" and option.config.depth == champion.depth for option in found)
    assert any("2 layers, 48 tokens, torch-fp32" in option.note for option in found)
    entries = deny_entries(loop.models.card(tiny), cycle_id="si_2026_01_01_001", reason="it was worse", at=utc_now(), keep=[])
    loop.repo.sync()
    loop.repo.change(lambda files: {"deny.yaml": add_denied(files["deny.yaml"], entries)}, "deny: a test")
    left = act._stored(loop, cycle, champion, dev(loop))
    assert not isinstance(left, str) and {option.config.model for option in left} == {small, shorter}
    (loop.models.path(champion.model) / "config.json").write_text("{}")
    assert act._stored(loop, cycle, champion, dev(loop)) == "nothing says how large the champion is"


def test_both_kinds_are_cheaper_variants_and_each_may_be_missing(loop: Loop, cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    small = model(loop, "two layers", 2)
    monkeypatch.setattr(act, "_quantised", lambda *_: "no export here")
    found = act._cheaper(loop, cycle, loop.serving(), dev(loop))
    assert not isinstance(found, str) and [option.config.model for option in found] == [small]
    monkeypatch.setattr(act, "_stored", lambda *_: "nothing smaller")
    assert act._cheaper(loop, cycle, loop.serving(), dev(loop)) == "no export here; nothing smaller"


def test_where_the_service_is_at_its_most_workers_there_is_no_option(loop: Loop, cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "info", lambda self, facts=False: {"ingest": {"workers": 8}})
    assert act._workers(loop, cycle, loop.serving(), dev(loop)) == "8 workers are the most that the release file allows"
