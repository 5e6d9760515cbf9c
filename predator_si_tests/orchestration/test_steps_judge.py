"""Labels and propensities of a home: what the raw layer's clicks become, what they change in a snapshot, and a language model that people check."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from predator_si.contour import LanguageModelJudge
from predator_si.monitor.judgments import JudgmentSet, JudgmentStore, PositionBias
from predator_si.monitor.probes import ProbeResult
from predator_si.orchestration.assets.observe import observe_assets
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import judge
from predator_si.records import MetricsSnapshot, utc_now
from predator_si.search.clicks import ClickModel
from predator_si.settings import Settings
from predator_si_tests.support.openai_peer import chat_peer
from predator_si_tests.support.platform import fake_model, prepare, write_snapshot
from predator_si_tests.support.raw_layer import store_rows
from predator_si_tests.support.windows import CHAMPION, action, frames, search


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    return prepare(found, fake_model(found, "champion"))


def traffic(now: datetime, requests: int = 1200, *, rankings: int = 2) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """People of the click model who are shown one of two orders of the same documents."""
    model, rng, rows, acted = ClickModel(eta=1.0), np.random.default_rng(5), [], []
    for i in range(requests):
        query, at = int(rng.integers(0, 20)), now - timedelta(minutes=50) + timedelta(seconds=i)
        ids = [f"doc{query}-{rank}" for rank in range(10)]
        shown = ids if rng.integers(0, rankings) == 0 else ids[::-1]
        results = [{"object_id": doc, "score": 1.0, "first_stage_score": None, "rerank_score": None} for doc in shown]
        rows.append(search(i, user_query=f"question {query}", client_id=f"c{i % 80}", timestamp=at, results=results, model_digest=CHAMPION, simulated=True))
        for click in model.clicks(shown, {ids[query % 3]: 1.0}, rng):
            acted.append(action(f"r{i}", object_id=click.object_id, timestamp=at, client_id=f"c{i % 80}", simulated=True))
        if i % 4 == 0:
            acted.append(action(f"r{i}", "rating", object_id=ids[query % 3], value=5.0, timestamp=at, client_id=f"c{i % 80}", simulated=True))
    return rows, acted


def window(loop: Loop, now: datetime) -> MetricsSnapshot:
    found = write_snapshot(loop, CHAMPION, created_at=now, values={"ndcg_at_10_clicks": 0.5})
    return found.model_copy(update={"window_start": now - timedelta(hours=1), "window_end": now})


def test_clicks_of_the_raw_layer_become_propensities_labels_and_metrics(loop: Loop) -> None:
    now = utc_now()
    rows, acted = traffic(now)
    events, snapshot = frames(rows, acted), window(loop, now)
    before = judge.add_judged(loop, snapshot, events, None).metrics
    assert "assumed: propensities were not fitted yet" in before["ndcg_at_10_clicks"].source and "coec" not in before

    store_rows(loop.home, rows, acted)
    found = judge.refresh(loop, now)
    assert found.bias.weights(10) is not None and found.bias.simulated and found.bias.requests == 1200
    assert found.bias.eta() == pytest.approx(1.0, abs=0.3)
    assert found.counts["click"] == found.sets["clicks"]["click"] > 100 and found.counts["human"] == loop.corpus.judgments().height
    assert found.counts["feedback"] == found.sets["feedback"]["feedback"] == 20
    stored = JudgmentStore(loop.home.judgments)
    for name in judge.OWN_SETS:
        assert stored.load(name).frame["query"].null_count() == stored.load(name).height  # no words of people outside the vault
    clicked = stored.load("clicks").frame
    best = clicked.sort("relevance", descending=True).unique("query_id", keep="first", maintain_order=True)
    assert all(int(doc.split("-")[1]) == int(doc.split("-")[0][3:]) % 3 for doc in best["doc_id"])  # the relevant one of each query

    after = judge.add_judged(loop, snapshot, events, None).metrics
    quality, ratio, over = (after[name] for name in ("ndcg_at_10_clicks", "ndcg_at_10_clicks_snips", "coec"))
    assert "fitted propensities" in quality.source and "effective clicks" in quality.source and "(simulated)" in quality.source
    assert quality.value is not None and quality.ci_low is not None and quality.ci_high is not None and quality.ci_low < quality.value < quality.ci_high
    assert ratio.value is not None and 0.0 < ratio.value < 1.0
    assert over.value == pytest.approx(1.0, abs=1e-9)  # the same clicks on both sides
    assert after["avg_latency_ms"] == snapshot.metrics["avg_latency_ms"]


def test_a_fit_is_kept_for_a_day_and_tried_again_sooner_while_nothing_is_known(loop: Loop) -> None:
    now = utc_now()
    store_rows(loop.home, *traffic(now, 200, rankings=1))
    first = judge.refresh(loop, now)
    assert first.bias.reason is not None and "two positions" in first.bias.reason and "click" not in first.counts
    said = judge.add_judged(loop, window(loop, now), frames(*traffic(now, 50, rankings=1)), None).metrics["ndcg_at_10_clicks"]
    assert said.value == 0.5 and "two positions" in said.source
    assert judge.refresh(loop, now + timedelta(minutes=30)).bias.fitted_at == now
    assert judge.refresh(loop, now + timedelta(hours=2)).bias.fitted_at == now + timedelta(hours=2)
    assert PositionBias.read(loop.home.judgments / "position_bias.json").fitted_at == now + timedelta(hours=2)


def test_the_asset_shows_labels_by_origin_and_propensities(loop: Loop) -> None:
    now = utc_now()
    store_rows(loop.home, *traffic(now, 400))
    asset = next(one for one in observe_assets(loop.settings) if one.key == dg.AssetKey(["observe", "judgments"]))
    result = dg.materialize([asset], resources={"loop": loop}, instance=dg.DagsterInstance.ephemeral())
    metadata = result.asset_materializations_for_node(asset.node_def.name)[0].metadata
    assert metadata["labels_human"].value == loop.corpus.judgments().height
    assert [row.data["position"] for row in metadata["propensities"].records] == list(range(1, 11))  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- the language model


def probed(loop: Loop) -> ProbeResult:
    """Fifty dev queries of the toy corpus: the service found the four documents of the topic, the outdated ones first."""
    documents, rows = loop.corpus.documents(), []
    for query_id, text in loop.corpus.queries(split="dev").head(50).select("query_id", "text").iter_rows():
        topic = query_id.split("-")[1]
        own = documents.filter(pl.col("doc_id").str.starts_with(f"{topic}-")).sort(pl.col("text").str.contains("verified"), "doc_id")
        rows.append((query_id, text, None, own["doc_id"].to_list()))
    frame = pl.DataFrame(rows, schema={"query_id": pl.String, "text": pl.String, "error": pl.String, "result_ids": pl.List(pl.String)}, orient="row")
    now = utc_now()
    return ProbeResult(loop.search_url, "champion", 20, frame, 0, frozenset({CHAMPION}), now, now)


def judging(loop: Loop, url: str, **more: Any) -> Loop:
    said = LanguageModelJudge(enabled=True, base_url=url, model="m", **{"questions_per_tick": 10_000} | more)
    values = loop.settings.values.model_copy(update={"llm_judge": said})
    return Loop(loop.settings.model_copy(update={"values": values}))


def people(loop: Loop, queries: int) -> None:
    """Somebody judged the documents of the first dev queries, in Quepid: known by text."""
    chosen = loop.corpus.queries(split="dev").head(queries)
    rows = [
        (judge.text_id(text), doc_id, 3.0 if "verified" in body else 0.0)
        for query_id, text in chosen.select("query_id", "text").iter_rows()
        for doc_id, body in loop.corpus.documents().filter(pl.col("doc_id").str.starts_with(query_id.split("-")[1] + "-")).select("doc_id", "text").iter_rows()
    ]
    frame = pl.DataFrame(rows, schema=["query_id", "doc_id", "relevance"], orient="row")
    JudgmentStore(loop.home.judgments).save("team", JudgmentSet.of(frame, "human", scale=3.0))


def graded(query: str, document: str, number: int) -> str:
    """Sees what people see, but praises an outdated page in one of six cases."""
    return json.dumps({"grade": 3 if "verified" in document or sum(query.encode() + document.encode()) % 6 == 0 else 0})


def test_the_judges_metric_is_corrected_by_people(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "corpus_origin", lambda loop: "docstring")  # nobody judged this corpus but the team
    people(loop, 40)
    with chat_peer(graded) as peer:
        own = judging(loop, peer.url)
        metric = judge.llm_metric(own, probed(own), utc_now())
        asked = len(peer.asked)
        again = judge.llm_metric(own, probed(own), utc_now())
    assert not peer.refused and asked == 50 * 4 and len(peer.asked) == asked  # the second tick costs nothing
    truth = 1.0 / np.log2(5.0)  # the relevant one stands fourth, everywhere
    assert metric.value is not None and metric.ci_low is not None and metric.ci_high is not None, metric.reason
    assert metric.ci_low - 1e-9 <= truth <= metric.ci_high + 1e-9 and again.value == metric.value
    assert metric.n == 50 and "weighted kappa" in metric.source and "40 queries that people judged" in metric.source


@pytest.mark.parametrize(
    ("judged", "more", "reply", "said"),
    [
        (20, {}, graded, "80 pairs were graded by people and by the model, 100 are needed"),
        (40, {"kappa": 0.9}, graded, "the judge is not used"),
        (40, {}, lambda query, document, number: '{"grade": 2}', "weighted kappa 0.000"),
        (40, {"questions_per_tick": 7}, graded, "are needed"),
        (40, {"tokens_per_cycle": 0}, graded, "0 pairs"),
        (40, {}, lambda query, document, number: 401, "HTTP 401"),
        (40, {"key_env": "NO_SUCH_KEY"}, graded, "NO_SUCH_KEY"),
    ],
)
def test_a_judge_that_cannot_be_believed_says_so(loop: Loop, monkeypatch: pytest.MonkeyPatch, judged: int, more: dict[str, Any], reply: Any, said: str) -> None:
    monkeypatch.setattr(judge, "corpus_origin", lambda loop: "docstring")
    people(loop, judged)
    with chat_peer(reply) as peer:
        own = judging(loop, peer.url, **more)
        metric = judge.llm_metric(own, probed(own), utc_now())
    assert metric.value is None and metric.reason is not None and said in metric.reason
    assert len(peer.asked) <= more.get("questions_per_tick", 10_000) and (more.get("tokens_per_cycle") != 0 or not peer.asked)


def test_a_snapshot_has_the_judges_metric_only_where_the_contour_has_one(loop: Loop) -> None:
    now = utc_now()
    snapshot = window(loop, now)
    assert "ndcg_at_10_llm" not in judge.add_judged(loop, snapshot, frames([]), None).metrics
    own = judging(loop, "http://127.0.0.1:9")
    metric = judge.add_judged(own, snapshot, frames([]), None).metrics["ndcg_at_10_llm"]
    assert metric.value is None and metric.reason == "no judged probes were sent in this window"
