"""The release file and its patches: bounds, comments, the way back, and other people's edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Refused
from predator_si.records import ServingConfig
from predator_si.release.patch import (
    apply_patch,
    end_shadow_changes,
    load_patch,
    make_patch,
    make_rollback,
    promote_changes,
    rollback_changes,
    save_patch,
    shadow_changes,
    step_changes,
    trial_changes,
)
from predator_si.release.release_file import OWNED_KEYS, ReleaseFile, owned_values, parse_release, release_name, seed_release
from predator_si.search.release_file import parse_release as service_parse

OLD, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
NAME = "release-local.yaml"
SEED = seed_release(ServingConfig(model=OLD, depth=20), "local")
CHALLENGER = ServingConfig(model=NEW, depth=12, fusion_weight=0.3)
CYCLE = "si_2026_11_22_001"


def _patch(text: str, changes: dict[str, Any], stage: Any = "trial") -> Any:
    return make_patch(text, changes, cycle_id=CYCLE, stage=stage, file=NAME)


def _edit(text: str, key: str, value: Any) -> str:
    return apply_patch(text, make_patch(text, {key: value}, cycle_id="si_2026_11_22_009", stage="trial", file=NAME))


def _comments(text: str) -> list[str]:
    return sorted(line[line.index("#") :].strip() for line in text.splitlines() if "#" in line)


def test_the_seed_is_plain_yaml_with_the_contract_keys() -> None:
    assert pyyaml.safe_load(SEED) == {
        "reranker": {"champion": OLD, "candidate": None, "candidateWeight": 0.0, "depth": 20, "earlyExit": False, "backend": "auto"},
        "fusion": {"weights": {"rerank": 1.0, "firstStage": 0.0}},
        "replicas": 1,
        "ingest": {"workers": 1},
        "index": {"build": "first"},
    }
    assert parse_release(SEED, NAME).serving == ServingConfig(model=OLD, depth=20, fusion_weight=0.0)


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("depth: 20", "depth: 201", 7, "reranker.depth"),
        ("depth: 20", "depth: 20.5", 7, "reranker.depth"),
        ("depth: 20", "depth: true", 7, "reranker.depth"),
        ("depth: 20", "depth: '20'", 7, "reranker.depth"),
        ("candidateWeight: 0.0", "candidateWeight: 0.51", 6, "reranker.candidateWeight"),
        ("candidateWeight: 0.0", "candidateWeight: .nan", 6, "reranker.candidateWeight"),
        ("candidateWeight: 0.0", "candidateWeight: 0.2", 3, "without a candidate"),
        ("a" * 64, "a" * 63, 4, "reranker.champion"),
        ("a" * 64, "A" * 64, 4, "reranker.champion"),
        ("backend: auto", "backend: pickle", 9, "'pickle' is not one of auto"),
        ("rerank: 1.0", "rerank: -0.1", 12, "fusion.weights.rerank"),
        ("rerank: 1.0", "rerank: 0", 11, "both 0"),
        ("replicas: 1", "replicas: 0", 14, "replicas"),
        ("workers: 1", "workers: 9", 16, "ingest.workers"),
        ("workers: 1", "worker: 1", 16, "ingest.worker: Extra"),
        ("replicas: 1", "replicas: 1\nreplicas: 2", 15, "not valid YAML"),
        ("replicas: 1", "replicas: [1", 15, "not valid YAML"),
        ("depth: 20", "depth: !!python/object:os.system 20", None, "tag"),
        ("reranker:", "nothing:", None, "reranker"),
    ],
)
def test_a_malformed_file_names_file_line_and_key(old: str, new: str, line: int | None, said: str) -> None:
    assert old in SEED
    with pytest.raises(BadInput) as caught:
        parse_release(SEED.replace(old, new, 1), NAME)
    assert str(caught.value).startswith(f"{NAME}, line {line}: " if line else NAME)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "null", "- a", "just text", "\x07", "a: &a [1]\nb: *a\n*a : 1\n*b", "[" * 500, "x: 2001-99-99"])
def test_what_is_no_mapping_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInput, match=NAME) as caught:
        parse_release(text, NAME)
    assert "\n" not in str(caught.value)


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 9)]
    with pytest.raises(BadInput, match="aliases that multiply"):
        parse_release("\n".join(lines), NAME)


def test_a_trial_changes_two_keys_and_keeps_every_comment() -> None:
    patch = _patch(SEED, trial_changes(CHALLENGER, 0.2))
    text = apply_patch(SEED, patch)
    release = parse_release(text, NAME)
    assert (release.reranker.champion, release.reranker.candidate, release.reranker.candidate_weight, release.reranker.depth) == (OLD, NEW, 0.2, 20)
    assert _comments(text) == _comments(SEED)
    changed = [(a, b) for a, b in zip(SEED.splitlines(), text.splitlines(), strict=True) if a != b]
    assert len(changed) == 2
    assert apply_patch(text, patch) == text  # applied already


def test_promotion_takes_over_depth_and_fusion_and_ends_the_trial() -> None:
    on_trial = apply_patch(SEED, _patch(SEED, trial_changes(CHALLENGER)))
    release = parse_release(apply_patch(on_trial, _patch(on_trial, promote_changes(CHALLENGER), "promote")), NAME)
    assert release.serving == ServingConfig(model=NEW, depth=12, fusion_weight=0.3)
    assert (release.reranker.candidate, release.reranker.candidate_weight) == (None, 0.0)


def test_rolling_back_a_promotion_does_not_lead_back_into_its_trial() -> None:
    trial = _patch(SEED, trial_changes(CHALLENGER))
    on_trial = apply_patch(SEED, trial)
    promotion = _patch(on_trial, promote_changes(CHALLENGER), "promote")
    released = apply_patch(on_trial, promotion)
    back = apply_patch(released, make_rollback(released, [trial, promotion]))
    assert parse_release(back, NAME) == parse_release(SEED, NAME)
    assert _comments(back) == _comments(SEED)
    assert make_rollback(back, [trial, promotion]).changes == {}
    alone = apply_patch(released, make_rollback(released, [promotion]))
    assert parse_release(alone, NAME).reranker.candidate == NEW  # why the trial's patch has to be given too


def test_a_trial_alone_is_taken_back() -> None:
    trial = _patch(SEED, trial_changes(CHALLENGER))
    on_trial = apply_patch(SEED, trial)
    assert rollback_changes(on_trial, [trial]) == {"reranker.candidate": None, "reranker.candidateWeight": 0.0}


def test_an_edit_of_our_key_is_refused_with_both_values() -> None:
    promotion = _patch(SEED, promote_changes(CHALLENGER), "promote")
    released = apply_patch(SEED, promotion)
    with pytest.raises(Refused, match=f"reranker.champion is {OTHER}.*had set {NEW}.*way back is {OLD}"):
        rollback_changes(_edit(released, "reranker.champion", OTHER), [promotion])


def test_an_edit_of_another_key_survives_the_way_back() -> None:
    promotion = _patch(SEED, promote_changes(ServingConfig(model=NEW, depth=20)), "promote")
    released = apply_patch(SEED, promotion)
    edited = _edit(_edit(released, "replicas", 3), "reranker.depth", 15)  # depth was named by the patch, but not moved by it
    back = parse_release(apply_patch(edited, make_rollback(edited, [promotion])), NAME)
    assert (back.reranker.champion, back.replicas, back.reranker.depth) == (OLD, 3, 15)


def test_a_key_that_somebody_put_back_already_is_fine() -> None:
    promotion = _patch(SEED, promote_changes(CHALLENGER), "promote")
    released = apply_patch(SEED, promotion)
    edited = _edit(released, "reranker.champion", OLD)
    assert "reranker.champion" not in rollback_changes(edited, [promotion])


def test_a_patch_is_refused_where_its_ground_has_moved() -> None:
    promotion = _patch(SEED, promote_changes(ServingConfig(model=NEW, depth=20)), "promote")
    with pytest.raises(Refused, match=r"reranker\.depth is 10, .* was made for 20"):
        apply_patch(_edit(SEED, "reranker.depth", 10), promotion)


def test_keys_that_are_not_ours_and_values_out_of_bounds() -> None:
    with pytest.raises(Refused, match=r"does not own selfImprovement\.killSwitch"):
        _patch(SEED, {"selfImprovement.killSwitch": False})
    with pytest.raises(BadInput, match=r"after the patch.*reranker\.depth"):
        _patch(SEED, {"reranker.depth": 500})
    with pytest.raises(BadInput, match=r"reranker\.champion"):
        _patch(SEED, {"reranker.champion": None})
    with pytest.raises(BadInput):
        release_name("../x")
    with pytest.raises(BadInput):
        rollback_changes(SEED, [])


def test_a_patch_survives_its_artifact(tmp_path: Path) -> None:
    patch = _patch(SEED, promote_changes(CHALLENGER), "promote")
    assert save_patch(tmp_path, patch).name == "helm_patch.yaml"
    assert load_patch(tmp_path, "promote") == patch
    assert pyyaml.safe_load((tmp_path / "helm_patch.yaml").read_text())["reverse"]["reranker.champion"] == OLD
    with pytest.raises(BadInput, match="no such file"):
        load_patch(tmp_path, "trial")
    (tmp_path / "helm_patch.yaml").write_text("changes: [")
    with pytest.raises(BadInput, match="not a patch"):
        load_patch(tmp_path, "promote")


DIGESTS = st.sampled_from([OLD, NEW, OTHER])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "reranker.champion": DIGESTS,
    "reranker.candidate": DIGESTS,
    "reranker.candidateWeight": st.floats(0, 0.5),
    "reranker.candidateDepth": st.none() | st.integers(0, 200),
    "reranker.candidateFirstStage": st.none() | st.floats(0, 1),
    "index.build": st.sampled_from(["first", "si_2026_11_23_001-repair"]),
    "index.candidateBuild": st.none() | st.just("si_2026_11_23_001-repair"),
    "reranker.candidateEarlyExit": st.none() | st.booleans(),
    "reranker.candidateMode": st.sampled_from(["ab", "shadow", "interleave"]),
    "reranker.shadow": st.none() | DIGESTS,
    "reranker.shadowShare": st.floats(0, 1),
    "reranker.shadowDepth": st.none() | st.integers(0, 200),
    "reranker.shadowFirstStage": st.none() | st.floats(0, 1),
    "reranker.shadowEarlyExit": st.none() | st.booleans(),
    "reranker.depth": st.integers(0, 200),
    "reranker.earlyExit": st.booleans(),
    "reranker.backend": st.sampled_from(["auto", "torch-fp32", "onnx-int8"]),
    "fusion.weights.rerank": st.floats(0.001, 1),
    "fusion.weights.firstStage": st.floats(0, 1),
    "replicas": st.integers(1, 20),
    "ingest.workers": st.integers(1, 8),
}
assert set(VALUES) == OWNED_KEYS


@st.composite
def files(draw: st.DrawFn) -> str:
    """A release file as people write them: keys left out, comments everywhere, flow style, quotes."""
    out: list[str] = []
    number = iter(range(1000))

    def comment(indent: str) -> None:
        if draw(st.booleans()):
            out.append(f"{indent}# note {next(number)}")
        if draw(st.integers(0, 3)) == 0:
            out.append("")

    def end() -> str:
        return f"  # end {next(number)}" if draw(st.booleans()) else ""

    comment("")
    quote = draw(st.sampled_from(["", "'", '"']))
    out.append(f"reranker:{end()}")
    out.append(f"  champion: {quote}{OLD}{quote}{end()}")
    candidate = draw(st.sampled_from([None, "null", "~", NEW]))
    if candidate is not None:
        comment("  ")
        out.append(f"  candidate: {candidate}{end()}")
        if candidate == NEW:
            out.append(f"  candidateWeight: 0.{draw(st.integers(0, 5))}0{end()}")
    if draw(st.booleans()):
        comment("  ")
        out.append(f"  depth: {draw(st.integers(0, 200))}{end()}")
    comment("")
    if draw(st.booleans()):
        out.append(
            draw(
                st.sampled_from(
                    [f"fusion:{end()}\n  weights:\n    # inner\n    rerank: 0.7{end()}\n    firstStage: 0.30{end()}", "fusion: {weights: {rerank: 0.7}}"]
                )
            )
        )
        comment("")
    if draw(st.booleans()):
        out.append(f"replicas: {draw(st.integers(1, 20))}{end()}")
        comment("")
    if draw(st.booleans()):
        out.append(draw(st.sampled_from([f"ingest:\n  workers: 2{end()}", "ingest: {}", "ingest: {workers: 3}"])))
        comment("")
    return "\n".join(out) + "\n"


@settings(max_examples=60, deadline=None)
@given(files(), st.fixed_dictionaries({}, optional=VALUES))
def test_apply_then_reverse_gives_the_same_file_and_keeps_the_comments(text: str, changes: dict[str, Any]) -> None:
    before = parse_release(text, NAME)
    candidate = changes.get("reranker.candidate") or before.reranker.candidate
    if changes.get("reranker.candidateWeight", before.reranker.candidate_weight) > 0 and candidate is None:
        changes["reranker.candidate"] = NEW
    patch = _patch(text, changes)
    applied = apply_patch(text, patch)
    by_another_parser = owned_values(ReleaseFile.model_validate(pyyaml.safe_load(applied)))
    assert by_another_parser == {**owned_values(before), **changes}
    as_the_service_reads_it = service_parse(applied.encode(), NAME)
    assert (as_the_service_reads_it.champion, as_the_service_reads_it.depth) == (by_another_parser["reranker.champion"], by_another_parser["reranker.depth"])
    assert _comments(applied) == _comments(text)
    back = apply_patch(applied, make_rollback(applied, [patch]))
    assert parse_release(back, NAME) == before
    assert _comments(back) == _comments(text)


def test_a_trial_of_settings_gives_them_to_the_candidate_alone_and_the_promotion_takes_them_off() -> None:
    champion = parse_release(SEED, NAME).serving
    challenger = ServingConfig(model=OLD, depth=8, fusion_weight=0.4, early_exit=True)
    trial = _patch(SEED, trial_changes(challenger, 0.2, champion))
    on_trial = apply_patch(SEED, trial)
    release = parse_release(on_trial, NAME)
    assert release.serving == champion, "the champion's arm stays as it is"
    assert (release.reranker.candidate, release.reranker.candidate_depth, release.reranker.candidate_first_stage) == (OLD, 8, 0.4)
    assert release.reranker.candidate_early_exit is True
    promotion = _patch(on_trial, promote_changes(challenger, trial), "promote")
    promoted = apply_patch(on_trial, promotion)
    assert parse_release(promoted, NAME).serving == challenger
    assert {parse_release(promoted, NAME).reranker.candidate_depth, parse_release(promoted, NAME).reranker.candidate_first_stage} == {None}
    back = parse_release(apply_patch(promoted, make_rollback(promoted, [trial, promotion])), NAME)
    assert back.serving == champion and back.reranker.candidate is None and back.reranker.candidate_depth is None
    assert set(trial_changes(champion.model_copy(update={"model": NEW}), 0.2, champion)) == {"reranker.candidate", "reranker.candidateWeight"}


def test_the_steps_of_a_trial_and_the_previous_champion_in_shadow_go_there_and_back() -> None:
    champion = parse_release(SEED, NAME).serving
    challenger = ServingConfig(model=NEW, depth=8, fusion_weight=champion.fusion_weight)
    trial = _patch(SEED, trial_changes(challenger, 0.1, champion, "shadow"))
    text, patches = apply_patch(SEED, trial), [trial]
    for mode, weight in (("interleave", 1.0), ("ab", 0.25), ("ab", 0.5)):
        step = _patch(text, step_changes(mode, weight))  # type: ignore[arg-type]
        text, patches = apply_patch(text, step), [*patches, step]
        assert (parse_release(text, NAME).reranker.candidate_mode, parse_release(text, NAME).reranker.candidate_weight) == (mode, weight)
    promotion = _patch(text, {**promote_changes(challenger, trial), **shadow_changes(champion, challenger)}, "promote")
    promoted = service_parse(apply_patch(text, promotion).encode(), NAME)
    assert (promoted.champion, promoted.candidate, promoted.candidate_mode) == (NEW, None, "ab")
    assert (promoted.shadow, promoted.shadow_share) == (OLD, 0.1)
    assert promoted.settings_of("shadow") == (champion.depth, champion.fusion_weight) != promoted.settings_of("champion") == (8, champion.fusion_weight)
    settled = apply_patch(apply_patch(text, promotion), _patch(apply_patch(text, promotion), end_shadow_changes(), "promote"))
    assert (service_parse(settled.encode(), NAME).shadow, service_parse(settled.encode(), NAME).shadow_depth) == (None, None)
    back = parse_release(apply_patch(apply_patch(text, promotion), make_rollback(apply_patch(text, promotion), [*patches, promotion])), NAME)
    assert back == parse_release(SEED, NAME)


@pytest.mark.parametrize("mode", ["ab", "shadow", "interleave"])
def test_only_a_trial_that_serves_nobody_alone_may_touch_more_than_half(mode: Any) -> None:
    changes = trial_changes(ServingConfig(model=NEW, depth=20, fusion_weight=0.3), 0.9, None, mode)
    if mode == "ab":
        with pytest.raises(BadInput, match=r"candidateWeight: .* at most 0\.5"):
            _patch(SEED, changes)
    else:
        assert parse_release(apply_patch(SEED, _patch(SEED, changes)), NAME).reranker.candidate_weight == 0.9


def test_workers_are_changed_only_where_they_are_what_is_changed() -> None:
    champion = parse_release(SEED, NAME).serving
    assert "ingest.workers" not in promote_changes(champion)
    changed = apply_patch(SEED, _patch(SEED, promote_changes(champion.model_copy(update={"ingest_workers": 4})), "promote"))
    assert parse_release(changed, NAME).ingest.workers == 4 and parse_release(changed, NAME).serving == champion
