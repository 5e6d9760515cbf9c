import pytest

from predator_si.errors import BadInput, Missing
from predator_si.search.release_file import parse_denied, parse_release, read_bytes

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def release(**keys: object) -> bytes:
    lines = {"champion": A, "candidate": "null", "candidateWeight": 0.0, "depth": 20, "backend": "auto", **keys}
    return ("reranker:\n" + "".join(f"  {key}: {value}\n" for key, value in lines.items())).encode()


def test_a_whole_release_file() -> None:
    text = release(candidate=B, candidateWeight=0.2) + b"fusion:\n  weights: {rerank: 3, firstStage: 1}\nreplicas: 2\ningest: {workers: 4}\n"
    found = parse_release(text, "release-local.yaml")
    assert (found.champion, found.candidate, found.candidate_weight, found.depth) == (A, B, 0.2, 20)
    assert (found.fusion_weight, found.replicas, found.ingest_workers, found.backend) == (0.25, 2, 4, "auto")


def test_what_the_release_stage_writes_is_understood() -> None:
    from predator_si.records import ServingConfig
    from predator_si.release.release_file import seed_release

    found = parse_release(seed_release(ServingConfig(model=A, depth=20, fusion_weight=0.2), "local").encode(), "release-local.yaml")
    assert (found.champion, found.candidate, found.depth) == (A, None, 20)
    assert found.fusion_weight == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "whole file"),
        (b"reranker: [", "line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"reranker: 3", "reranker"),
        (release(champion="sha256:abc"), "reranker.champion"),
        (release(champion="latest"), "reranker.champion"),
        (release(depth=-1), "reranker.depth"),
        (release(depth="true"), "reranker.depth"),
        (release(depth="'20'"), "reranker.depth"),
        (release(candidateWeight=1.5), "reranker.candidateWeight"),
        (release(candidateWeight=".nan"), "reranker.candidateWeight"),
        (release(backend="pickle"), "reranker.backend"),
        (release(candidate_weight=0.1), "reranker.candidate_weight"),
        (release() + b"  depth: 30\n", "line"),
        (release() + b"fusion: {weights: {rerank: 0, firstStage: 0}}\n", "fusion.weights"),
        (release() + b"ingest: {workers: 0}\n", "ingest.workers"),
    ],
)
def test_a_malformed_release_names_file_and_key(data: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=r"release-local\.yaml") as raised:
        parse_release(data, "release-local.yaml")
    assert said in str(raised.value)


def test_deny_list_knows_digest_and_source() -> None:
    denied = parse_denied(
        f"denied:\n- {{digest: '{A}', sourceDigest: '{B}', cycle: si_2026_01_01_001, reason: worse, at: 2026-01-01T00:00:00Z}}\n".encode(), "deny.yaml"
    )
    other = "sha256:" + "c" * 64
    assert "worse" in (denied.reason_against(A, None) or "")
    assert "worse" in (denied.reason_against(other, B) or "")
    assert denied.reason_against(other, other) is None
    assert parse_denied(b"", "deny.yaml").reasons == {}
    with pytest.raises(BadInput, match=r"deny.yaml: denied.0.digest"):
        parse_denied(b"denied: [{digest: abc}]", "deny.yaml")


def test_files_that_are_missing_or_far_too_large(tmp_path) -> None:
    with pytest.raises(Missing, match="reconciler"):
        read_bytes(tmp_path / "release-local.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(BadInput, match="300000 bytes"):
        read_bytes(tmp_path / "big.yaml")
