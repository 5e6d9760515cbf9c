"""One Dagster instance for all tests of a module, since making its tables takes a second; empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from predator_si.orchestration.partitions import cycles


@pytest.fixture(scope="module")
def storage() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def instance(storage: dg.DagsterInstance) -> dg.DagsterInstance:
    storage.wipe()
    for key in storage.get_dynamic_partitions(str(cycles.name)):
        storage.delete_dynamic_partition(str(cycles.name), key)
    return storage
