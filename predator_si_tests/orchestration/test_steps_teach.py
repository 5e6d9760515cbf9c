"""The teacher of a home, and what its clicks say about ranks: out of the real store, index and files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from predator_si.monitor.judgments import PositionBias, PositionPropensity
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.teach import fitted_propensities, home_teacher
from predator_si.proof.prepare import build_first_index
from predator_si.settings import Settings
from predator_si_tests.support.platform import prepare, tiny_scale, write_toy_corpus
from predator_si_tests.support.tiny_models import tiny_cross_encoder, toy_texts


@pytest.fixture
def loop(settings: Settings, tmp_path: Path) -> Loop:
    found = Loop(settings.model_copy(update={"cache": tmp_path / "no models at hand"}))
    folder = tiny_cross_encoder(tmp_path / "tiny", toy_texts(), 0, layers=1, hidden=16, max_length=64)
    champion = found.models.add(folder, name="tiny", backend="torch-fp32", max_length=32)
    prepare(found, champion, tiny_scale(), write_toy_corpus(tmp_path / "toy"))
    build_first_index(found, part=None)
    return found


def test_champion_and_both_legs_teach_and_scores_are_kept(loop: Loop) -> None:
    teacher = home_teacher(loop)
    assert teacher.members == ("cross-encoder", "dense", "lexical")
    queries = loop.corpus.queries(split="train")["text"].to_list()[:4]
    found = loop.index().candidates(queries, 5)
    first = teacher.label(queries, [one.doc_ids for one in found], [one.texts for one in found])
    assert [len(labels.scores) for labels in first] == [len(one.doc_ids) for one in found] and all("lexical" in labels.votes for labels in first)
    kept = len(loop.pair_scores)
    assert kept == len({(query, text) for query, one in zip(queries, found, strict=True) for text in one.texts})
    again = home_teacher(loop).label(queries, [one.doc_ids for one in found], [one.texts for one in found])
    assert [labels.scores.tolist() for labels in again] == [labels.scores.tolist() for labels in first] and len(loop.pair_scores) == kept


def test_what_people_clicked_has_a_vote_on_their_queries(loop: Loop) -> None:
    queries = loop.corpus.queries(split="train")["text"].to_list()[:2]
    found = loop.index().candidates(queries, 5)
    ids, texts = [one.doc_ids for one in found], [one.texts for one in found]
    log = pl.DataFrame({"text": [queries[0]] * 3, "clicked": [[ids[0][-1]]] * 3, "impressions": [ids[0]] * 3})
    teacher = home_teacher(loop, log)
    assert teacher.weights["clicks"] == 1.0
    clicked, other = teacher.label(queries, ids, texts)
    assert int(clicked.votes["clicks"].argmax()) == len(ids[0]) - 1 and "clicks" not in other.votes
    plain = home_teacher(loop).label(queries, ids, texts)[0]
    assert clicked.scores[-1] > plain.scores[-1]
    for silent in (pl.DataFrame(), log.with_columns(clicked=pl.lit([], pl.List(pl.String)))):
        assert home_teacher(loop, silent).members == ("cross-encoder", "dense", "lexical")


def write_bias(loop: Loop, *propensities: float | None) -> None:
    positions = tuple(
        PositionPropensity(position=rank, propensity=value, impressions=100, clicks=50, moved_clicks=40) for rank, value in enumerate(propensities, start=1)
    )
    loop.home.judgments.mkdir(parents=True, exist_ok=True)
    bias = PositionBias(positions=positions, requests=100, clients=50, pairs=20, moved_pairs=10)
    (loop.home.judgments / "position_bias.json").write_text(bias.to_json())


def test_ranks_are_known_down_to_the_first_unknown_one(loop: Loop) -> None:
    assert fitted_propensities(loop) is None
    write_bias(loop, 1.0, 0.6, 0.4, None, 0.2)
    assert fitted_propensities(loop) == [1.0, 0.6, 0.4]
    for unknown in ((1.0, None, 0.3), (None, None), ()):
        write_bias(loop, *unknown)
        assert fitted_propensities(loop) is None
