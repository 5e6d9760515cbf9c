"""The generators that a contour must ask for: language models that write queries.

What belongs here: from the contour's values to a generator. What must not: prompts, budgets, checks (``augment.generators.llm``).
"""

from __future__ import annotations

from predator_si.augment.generators.llm import WrittenQueries
from predator_si.augment.material import Generator
from predator_si.language_model import Budget, Endpoint
from predator_si.monitor.judgments import LLMEndpoint
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import permission

_ANSWER_TOKENS = 400
"""Three queries with their grades, in any script."""


def written_queries(loop: Loop, cycle_id: str) -> list[Generator]:
    """The contour's language model as a generator; none where it has none, or where policy lets nothing be spent."""
    said = loop.settings.values.augment.llm
    if not said.enabled:
        return []
    if (allowed := permission.ruling(loop, "spend", cycle_id=cycle_id)).answer != "allow":
        loop.control.append("spend_refused", "loop", cycle_id, f"no queries are written: {allowed.reason}", {"rule": allowed.rule})
        return []
    assert said.base_url is not None and said.model is not None and said.judge_model is not None  # an enabled one has all three
    own = said.judge_base_url is not None
    writer = Endpoint(said.base_url, said.model, said.key_env, said.usd_per_million_in, said.usd_per_million_out, _ANSWER_TOKENS)
    judge = LLMEndpoint(
        said.judge_base_url or said.base_url,
        said.judge_model,
        said.judge_key_env if own else said.key_env,
        said.judge_usd_per_million_in,
        said.judge_usd_per_million_out,
    )
    return [
        WrittenQueries(
            writer,
            judge,
            loop.home.written_queries,
            cycle_id,
            Budget(said.usd_per_cycle, said.tokens_per_cycle),
            least_clients=loop.settings.values.privacy.min_clients,
            examples=said.examples,
            replay=said.replay,
            seconds=60.0 * said.minutes_per_cycle,
            at_once=said.at_once,
            should_stop=loop.should_stop(cycle_id),
        )
    ]
