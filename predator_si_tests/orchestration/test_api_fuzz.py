"""Schemathesis over the OpenAPI document, in process: no server error, no answer that the document does not describe, no input accepted that it forbids.

``PREDATOR_SI_FUZZ_CASES`` says how many cases there are over all calls; the tests run a few hundred.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from predator_si.api.tokens import Role
from predator_si.home import Home
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.dagster_peer import bare_schema

DEPENDS = (
    f"POST {OPTIMIZER}/quality-gates/{{metric}}",
    f"POST {OPTIMIZER}/quality-gates/{{metric}}/end",
    f"POST {OPTIMIZER}/feedback",
    "POST /alerts/alertmanager",
)
"""Calls whose input is right or wrong by more than its own field: a threshold by its metric's range, a mark by its document, somebody else's payload."""
CASES = int(os.environ.get("PREDATOR_SI_FUZZ_CASES", "220"))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiGround]:
    found = ApiGround(Home(tmp_path_factory.mktemp("fuzz") / "home").ensure(), "edge-oracle", "  api: {writesPerMinute: 1000000, readsPerSecond: 1000000}\n")
    found.measured(ndcg_at_10=0.6)
    bare_schema()  # the peer's first answer would wait for it

    async def at_once(true: Any, seconds: float) -> bool:
        return bool(await true())  # a case that waits 600 s would

    found.app.state.parts.optimizer._until = at_once
    found.app.state.parts.door._lockout.failed = lambda address, token_id: 0.0  # it tries wrong tokens too, more than an address may
    yield found


@pytest.mark.slow
def test_every_call_keeps_its_word(ground: ApiGround):
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    headers = ground.token(Role.ADMIN)
    schema = schemathesis.openapi.from_asgi("/openapi.json", ground.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 19
    tried, broken = {"cases": 0}, list[str]()
    each = max(4, CASES // len(operations))
    for operation in operations:

        @given(case=operation.as_strategy())
        @hypothesis_settings(
            max_examples=each, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate], database=None, derandomize=True
        )
        def keeps_its_word(case: Any) -> None:
            tried["cases"] += 1
            if case.headers:
                case.headers.pop("Idempotency-Key", None)  # the same key twice is refused on purpose
            case.call_and_validate(headers=headers, excluded_checks=[positive_data_acceptance] if case.operation.label in DEPENDS else [])

        try:
            keeps_its_word()
        except (Exception, BaseExceptionGroup) as error:
            broken.append(f"{operation.label}: {error}")
    print(f"{tried['cases']} cases over {len(operations)} calls, {len(broken)} calls broken")
    assert not broken, "\n\n".join(broken)
    assert tried["cases"] >= 0.5 * CASES, tried
