"""Earlier training data: what may be used again, and that evaluation queries and erased clients never are."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.privacy import Vault
from predator_si.train.groups import read_groups
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.replay import earlier_data, with_replay


def rows(group: int, query: str, **more: Any) -> list[dict[str, Any]]:
    return [{"group_id": group, "query": query, "doc_id": f"d{n}", "text": f"text {n} of {query}", "label": float(n == 0), **more} for n in range(3)]


def stored(folder: Path, name: str, groups: list[tuple[int, str]]) -> Path:
    path = folder / f"{name}.parquet"
    pl.DataFrame([row for group, query in groups for row in rows(group, query)]).write_parquet(path)
    return path


def test_what_may_be_used_again(tmp_path: Path):
    newer = stored(tmp_path, "newer", [(0, "sort a table"), (1, "plot a line"), (2, "Sealed probe?")])
    older = stored(tmp_path, "older", [(0, "Sort  a table!"), (1, "parse a date"), (2, "now again")])
    now = pl.DataFrame(rows(0, "Now, again"))
    found = earlier_data([newer, older], None, never=["sealed PROBE"], now=now)
    assert found.groups == 3
    assert found.left_out == {"erased_rows": 0, "evaluation": 1, "present": 1, "doubled": 1}
    assert found.examples is not None
    kept = found.examples.group_by("group_id", maintain_order=True).agg(pl.first("query"), pl.len())
    assert kept.rows() == [(0, "sort a table", 3), (1, "plot a line", 3), (2, "parse a date", 3)], "the newest of a query, with numbers of their own"


def test_erased_clients_are_left_out(tmp_path: Path):
    vault = Vault(tmp_path / "privacy" / "vault.db")
    when = datetime(2026, 11, 1, tzinfo=UTC)
    path = tmp_path / "sealed.parquet"
    clients = [vault.client_hash(name) for name in ("alice", "bob")]
    alice, bob = vault.seal("sort a table", clients[0], when), vault.seal("parse a date", clients[1], when)
    vault.sync()
    pl.DataFrame(rows(0, alice) + rows(1, bob) + rows(2, "plot a line")).write_parquet(path)
    all_three = earlier_data([path], vault)
    assert all_three.examples is not None and sorted(all_three.examples["query"].unique()) == ["parse a date", "plot a line", "sort a table"]
    vault.destroy(clients[0])
    found = earlier_data([path], vault)
    assert found.examples is not None and sorted(found.examples["query"].unique()) == ["parse a date", "plot a line"]
    assert found.left_out["erased_rows"] == 3
    assert earlier_data([path], None).left_out["erased_rows"] == 6, "without the vault no sealed query can be read"


def test_nothing_to_replay(tmp_path: Path):
    nothing = earlier_data([], None)
    assert nothing.examples is None and nothing.groups == 0
    assert earlier_data([stored(tmp_path, "a", [(0, "q one")])], None, never=["Q, one"]).examples is None
    assert with_replay([], None, TrainingRecipe(replay_share=0.3)) == []
    with pytest.raises(BadInput, match="cannot be read"):
        earlier_data([tmp_path / "gone.parquet"], None)


def test_drawing_is_seeded_and_leaves_out_what_the_loss_cannot_use(tmp_path: Path):
    found = earlier_data([stored(tmp_path, "a", [(n, f"query number {n}") for n in range(50)])], None)
    recipe = TrainingRecipe(replay_share=0.2, seed=3)
    own = read_groups(pl.DataFrame([row for n in range(20) for row in rows(n, f"own {n}")]), recipe)
    drawn = [group.query for group in with_replay(own, found.examples, recipe)[20:]]
    assert len(drawn) == len(set(drawn)) == 5
    assert drawn == [group.query for group in with_replay(own, found.examples, recipe)[20:]]
    assert drawn != [group.query for group in with_replay(own, found.examples, recipe.model_copy(update={"seed": 4}))[20:]]
    assert with_replay(own, found.examples, recipe.model_copy(update={"loss": "distil"})) == own, "no teacher scored the earlier groups"
