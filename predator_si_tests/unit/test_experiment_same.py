"""A model against itself, by the trial's own rule: hardly ever harm, and a rule that cries wolf is seen to."""

from __future__ import annotations

import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.experiment import same
from predator_si.experiment.same import SameReplay, growing, replay_same
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si_tests.support.trials import END
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, action, frames, search


def one_model(n: int = 300):
    rng = np.random.default_rng(0)
    rows = [search(i, client_id=f"c{i}", latency_ms=float(rng.lognormal(4.6, 0.4)), status=503 if rng.random() < 0.02 else 200) for i in range(n)]
    others = [search(n + i, model_digest=CHALLENGER, variant="candidate") for i in range(50)]
    return frames([*rows, *others], [action(f"r{i}") for i in range(n) if rng.random() < 0.6])


def replayed(**more) -> SameReplay:
    given = {"window_start": START, "window_end": END, "now": END, "splits": 12, "min_sample": 200}
    return replay_same(more.pop("events", one_model()), CHAMPION, **(given | more))


def test_a_model_is_hardly_ever_worse_than_itself():
    seen: list[tuple[int, int]] = []
    found = replayed(on_progress=lambda done, total: seen.append((done, total)))
    assert (found.requests, found.clients, found.splits, seen[-1]) == (300, 300, 12, (12, 12)), "another model's requests are left out"
    assert found.rejected + found.invalid == 0 and found.holds and found.false_alarm_upper == pytest.approx(1 - 0.05 ** (1 / 12))
    assert found.promised == pytest.approx(0.007)
    assert SameReplay.model_validate_json(found.to_json()) == found and replayed() == found, "the same splits every time"


def test_a_split_is_looked_at_as_often_as_a_trial_is_and_no_longer_than_it_lives(monkeypatch: pytest.MonkeyPatch):
    assert growing(200, 400) == [200, 250, 313, 392, 400] and growing(200, 200) == [200] and growing(200, 230) == [200, 230]
    ends: list[int] = []
    real = same.judge_ab

    def judged(events, *models, **given):
        ends.append(int((given["window_end"] - START).total_seconds()))
        return real(events, *models, **given)

    monkeypatch.setattr(same, "judge_ab", judged)
    # nothing is proven of twelve equal times, so the trial goes on to its end
    rows = [search(i, client_id=f"c{i}", latency_ms=100.0) for i in range(300)]
    assert replayed(events=frames(rows), splits=1).looks == 3 and ends == [199, 249, 3600]
    ends.clear()
    assert replayed(splits=2).looks == len(ends) and ends[0] == 199, "what is shown at the first look ends it there"


def test_a_rule_that_cries_wolf_is_seen():
    """At a level of .4 for each guardrail many splits look like harm; against what the present levels promise that is a surprise."""
    loose = replayed(design=DEFAULT_DESIGN.replaced({"harm_alpha": 0.4}))
    assert loose.rejected >= 3 and "harm" in loose.reasons[0]
    assert not loose.model_copy(update={"promised": 0.007}).holds


def test_too_little_traffic_is_refused():
    with pytest.raises(BadInput, match="A/A replay: 100 requests"):
        replayed(events=one_model(100))
