import numpy as np
import pytest

from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.search.variants import BUCKETS, ReleaseFollower, Variants, bucket
from predator_si_tests.support.search_fakes import FakeHome, fake_home, load_fake_reranker


@pytest.fixture
def home(tmp_path) -> FakeHome:
    return fake_home(tmp_path)


def follower(home: FakeHome) -> ReleaseFollower:
    return ReleaseFollower(home.path / "applied" / "release-local.yaml", home.path / "applied" / "deny.yaml", home.store, load_fake_reranker)


def weighted(home: FakeHome, weight: float) -> Variants:
    home.release(home.model("a"), home.model("b"), weight)
    return follower(home).current


def test_assignment_is_sticky_and_has_the_configured_share(home: FakeHome) -> None:
    variants = weighted(home, 0.2)
    clients = [f"client-{i}" for i in range(20_000)]
    first = [variants.assign(client) for client in clients]
    assert first == [variants.assign(client) for client in clients]
    share = np.mean([name == "candidate" for name in first])
    assert abs(share - 0.2) < 4.5 * np.sqrt(0.2 * 0.8 / len(clients))


def test_raising_the_weight_moves_clients_one_way_only(home: FakeHome) -> None:
    clients = [f"client-{i}" for i in range(2000)]
    low, high = weighted(home, 0.1), weighted(home, 0.3)
    before, after = ({c for c in clients if variants.assign(c) == "candidate"} for variants in (low, high))
    assert before < after


def test_weight_zero_one_and_no_candidate(home: FakeHome) -> None:
    clients = [f"client-{i}" for i in range(500)]
    none, all_of_it = weighted(home, 0.0), weighted(home, 1.0)
    home.release(home.model("a"), None, 0.5)
    alone = follower(home).current
    assert [{variants.assign(c) for c in clients} for variants in (none, all_of_it, alone)] == [{"champion"}, {"candidate"}, {"champion"}]
    assert min(map(bucket, clients)) >= 0 and max(map(bucket, clients)) < BUCKETS


def test_a_change_is_followed_and_a_promotion_loads_nothing_twice(home: FakeHome) -> None:
    a, b = home.model("a"), home.model("b")
    home.release(a, b, 0.2)
    following = follower(home)
    trial = following.current
    assert not following.poll()
    home.release(b, None)
    assert following.poll()
    assert following.current.champion is trial.candidate
    assert following.current.candidate is None and following.swaps == 1
    assert trial.champion.digest == a  # who still holds the old variants keeps them whole


@pytest.mark.parametrize("text", ["reranker: [", '{"reranker": {"champion": "sha256:1"}}', ""])
def test_a_malformed_file_is_kept_out_until_it_is_mended(home: FakeHome, text: str) -> None:
    a, b = home.model("a"), home.model("b")
    home.release(a)
    following = follower(home)
    home.write("release-local.yaml", text)
    assert not following.poll() and not following.poll()
    assert following.current.champion.digest == a
    assert "release-local.yaml" in str(following.error) and following.errors == 1
    home.release(b)
    assert following.poll()
    assert following.error is None and following.current.champion.digest == b


def test_a_model_that_arrives_late_is_taken_without_touching_the_file(home: FakeHome, tmp_path) -> None:
    a, late = home.model("a"), fake_home(tmp_path / "elsewhere")
    b = late.model("b")
    home.release(a)
    following = follower(home)
    home.release(b)
    assert not following.poll()
    assert b in str(following.error)
    home.model("b")
    assert following.poll()
    assert following.error is None and following.current.champion.digest == b


def test_a_release_file_that_vanishes_and_comes_back_unchanged_clears_its_error(home: FakeHome) -> None:
    home.release(home.model("a"))
    following = follower(home)
    path = home.path / "applied" / "release-local.yaml"
    text = path.read_text()
    path.unlink()
    assert not following.poll()
    assert "no such file" in str(following.error)
    path.write_text(text)
    assert not following.poll()
    assert following.error is None and following.swaps == 0


def test_a_denied_model_is_refused_by_its_digest_and_by_its_source(home: FakeHome) -> None:
    a, source = home.model("a"), home.model("source")
    quantised = home.model("quantised", source_digest=source)
    home.release(a)
    following = follower(home)
    home.deny("sha256:" + "9" * 64, source=source)
    following.poll()
    assert following.error is None  # the deny list alone concerns nobody who serves
    for denied in (source, quantised):
        home.release(denied)
        assert not following.poll()
        assert "deny list: it was worse" in str(following.error)
        assert following.current.champion.digest == a
    home.release(a, quantised, 0.2)  # as a candidate neither
    assert not following.poll() and following.current.candidate is None


def test_a_deny_list_that_cannot_be_read_stops_changes(home: FakeHome) -> None:
    a, b = home.model("a"), home.model("b")
    home.release(a)
    following = follower(home)
    home.write("deny.yaml", "denied: [")
    home.release(b)
    assert not following.poll()
    assert "deny.yaml" in str(following.error) and following.current.champion.digest == a


def test_bytes_that_are_not_the_released_ones_are_refused(home: FakeHome) -> None:
    a, b = home.model("a"), home.model("b")
    home.release(a)
    following = follower(home)
    (home.store.path(b) / "model.safetensors").write_text('{"behaviour": "reverse"}')
    home.release(b)
    assert not following.poll()
    assert "was asked for" in str(following.error) and following.current.champion.digest == a


@pytest.mark.parametrize("weights", [{"behaviour": "cold"}, {"behaviour": "no such thing", "seconds": "x"}])
def test_a_model_that_cannot_score_is_not_swapped_in(home: FakeHome, weights: dict[str, str]) -> None:
    a, bad = home.model("a"), home.model("bad", **weights)
    home.release(a)
    following = follower(home)
    home.release(bad)
    assert not following.poll()
    assert "cannot score" in str(following.error) and following.current.champion.digest == a


def test_backend_must_be_the_champions_or_auto(home: FakeHome) -> None:
    a = home.model("a")
    home.write("release-local.yaml", f"reranker: {{champion: '{a}', depth: 5, backend: onnx-int8}}")
    with pytest.raises(BadInput, match="onnx-int8"):
        follower(home)
    home.write("release-local.yaml", f"reranker: {{champion: '{a}', depth: 5, backend: torch-fp32}}")
    assert follower(home).current.champion.digest == a


def test_a_start_without_release_model_or_permission_fails(home: FakeHome) -> None:
    with pytest.raises(Missing):
        follower(home)
    home.release("sha256:" + "1" * 64)
    with pytest.raises(Missing):
        follower(home)
    a = home.model("a")
    home.release(a)
    home.deny(a)
    with pytest.raises(Refused):
        follower(home)
    assert issubclass(Refused, PredatorError)
