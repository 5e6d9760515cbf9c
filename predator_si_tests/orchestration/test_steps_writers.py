"""A contour's language model as a source of training queries: none unless it is asked for, and then it pays from its own cycle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from predator_si.augment.material import Material
from predator_si.augment.recipe import Guard
from predator_si.contour_augment import Augment, LanguageModelWriter
from predator_si.language_model import AnswerStore
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import prepare as prepare_step
from predator_si.orchestration.steps.writers import written_queries
from predator_si.search.index_versions import IndexVersions
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder
from predator_si.settings import Settings
from predator_si_tests.support.generator_material import empty_log, report
from predator_si_tests.support.openai_peer import Asked, chat_peer
from predator_si_tests.support.platform import fake_model, open_cycle, prepare


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    prepare(found, fake_model(found, "champion"))
    IndexVersions(found.home.index).publish(HybridIndex.build(found.corpus.documents(), HashingEmbedder()))
    return found


def writing(loop: Loop, url: str, **more: Any) -> Loop:
    said = LanguageModelWriter(enabled=True, base_url=url, model="writer", judge_model="judge", **more)
    values = loop.settings.values.model_copy(update={"augment": Augment(llm=said)})
    return Loop(loop.settings.model_copy(update={"values": values}))


def writes(asked: Asked) -> str:
    words = asked.texts("document")[0].split()
    grades = [3, *[0] * (len(asked.texts("document")) - 1)]
    return json.dumps({"queries": [{"style": "keyword", "query": " ".join(words[-3:]).strip("."), "grades": grades}]})


def test_it_writes_for_the_loop_s_own_documents_and_pays_from_the_cycle(loop: Loop) -> None:
    cycle = open_cycle(loop.control).cycle_id
    material = Material(report(), empty_log(), loop.corpus.documents(), loop.index(), Guard([], frozenset()))
    with chat_peer(lambda query, document, number: '{"grade": 2}', write=writes) as peer:
        [generator] = written_queries(writing(loop, peer.url, usd_per_million_in=1.0), cycle)
        found = list(generator.propose(material, 4, np.random.default_rng(0)))
        loop.control.set_kill_switch(loop.contour, True, "test", "enough")
        assert list(generator.propose(material, 9, np.random.default_rng(0))) == []
    assert not peer.refused and len(found) == 4 and {one.source for one in found} == {"llm"}
    with AnswerStore(loop.home.written_queries) as books:
        assert min(books.spent(cycle)) > 0


def test_a_judge_elsewhere_has_its_own_key(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRITER_KEY", "one")
    monkeypatch.setenv("JUDGE_KEY", "two")
    material = Material(report(), empty_log(), loop.corpus.documents(), loop.index(), Guard([], frozenset()))
    with chat_peer(lambda *_: 500, key="one", write=writes) as writer, chat_peer(lambda *_: '{"grade": 3}', key="two") as judge:
        own = writing(loop, writer.url, key_env="WRITER_KEY", judge_base_url=judge.url, judge_key_env="JUDGE_KEY")
        [generator] = written_queries(own, open_cycle(loop.control).cycle_id)
        assert len(list(generator.propose(material, 1, np.random.default_rng(0)))) == 1
    assert len(writer.asked) == len(judge.asked) == 1


def test_the_data_of_a_cycle_use_it_only_where_the_contour_asks(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    class Enough(Exception):
        pass

    def noted(*_: Any, generators: Any, **__: Any) -> None:
        asked.append([generator.source for generator in generators])
        raise Enough

    monkeypatch.setattr(prepare_step, "build_dataset", noted)
    cycle = open_cycle(loop.control).cycle_id
    loop.save(cycle, "diagnostic_report.json", report())
    for one in (loop, writing(loop, "http://127.0.0.1:9")):
        with pytest.raises(Enough):
            prepare_step.build_data(one, cycle)
    assert "llm" not in asked[0] and asked[1] == [*asked[0], "llm"]
