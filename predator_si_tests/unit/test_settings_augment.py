"""The contour's keys for a language model that writes training queries: off everywhere, and refused where it could judge itself or leak a secret."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from predator_si.contour_augment import LanguageModelWriter
from predator_si.settings import load_settings

WHOLE = {"enabled": True, "baseUrl": "http://127.0.0.1:8000", "model": "one", "judgeModel": "other"}


@pytest.mark.parametrize("contour", ["local", "dev-mac", "edge-oracle", "compute-nvidia"])
def test_no_shipped_contour_sends_anything(contour: str):
    said = load_settings(contour, env={}).values.augment.llm
    assert not said.enabled and said.base_url is None and said.key_env is None


def test_what_it_needs_is_enough():
    said = LanguageModelWriter.model_validate(WHOLE)
    assert (said.usd_per_cycle, said.tokens_per_cycle, said.examples, said.replay) == (1.0, 500_000, 3, False)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"judgeModel": None}, "needs baseUrl, model and judgeModel"),
        ({"baseUrl": None}, "needs baseUrl, model and judgeModel"),
        ({"judgeModel": " ONE"}, "judge what it wrote itself"),
        ({"baseUrl": "http://me:secret@host"}, "without a user"),
        ({"judgeBaseUrl": "file:///etc/passwd"}, "not an http"),
        ({"keyEnv": "sk-abcdef0123456789"}, "pattern"),
        ({"usdPerCycle": -1.0}, "greater than or equal"),
        ({"apiKey": "x"}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_repeating_secrets(change: dict[str, object], why: str):
    with pytest.raises(ValidationError, match=why) as refused:
        LanguageModelWriter.model_validate(WHOLE | change)
    assert "secret" not in refused.value.errors()[0]["msg"]
