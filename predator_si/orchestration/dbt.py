"""The dbt project as Dagster sees it: a description that loads in a millisecond, and a build whose events become asset events.

What belongs here: everything that knows dagster-dbt, which loads dbt (two seconds) and is therefore imported inside functions. What must not: SQL, the
loading of the raw layer (``warehouse``).

``@dbt_assets`` needs dbt while a code location is loaded, and every run and sensor process loads it. So its answer is kept in ``warehouse/assets.json``: run
this module after a change of the project (``python -m predator_si.orchestration.dbt``); a test compares the file with what ``@dbt_assets`` says.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from predator_si.errors import Unavailable
from predator_si.home import Home
from predator_si.warehouse.build import Batch, build_options, dbt_program, load, manifest, read_results
from predator_si.warehouse.engines import PROJECT, Target, environment

DESCRIPTION = PROJECT.parent / "assets.json"
GROUP = "warehouse"


def described() -> dict[str, Any]:
    """Assets and checks of the project: ``assets`` with key, deps and description, ``checks`` with asset, name, blocking and description."""
    found: dict[str, Any] = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    return found


def describe(home: Home, target: Target = "duckdb") -> dict[str, Any]:
    """The same, from the project itself by ``@dbt_assets``."""
    from dagster_dbt import DbtCliResource, dbt_assets

    @dbt_assets(manifest=manifest(home, target), dagster_dbt_translator=_translator())
    def models(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
        yield from dbt.cli(["build"], context=context).stream()

    assets = [
        {"key": spec.key.to_user_string(), "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps), "description": spec.description}
        for spec in models.specs
    ]
    checks = [
        {"asset": spec.asset_key.to_user_string(), "name": spec.name, "blocking": spec.blocking, "description": spec.description} for spec in models.check_specs
    ]
    return {"assets": sorted(assets, key=lambda one: str(one["key"])), "checks": sorted(checks, key=lambda one: (str(one["asset"]), str(one["name"])))}


def as_text(found: dict[str, Any]) -> str:
    """One spelling of a description: a line for each asset and each check."""
    parts = [f'"{kind}": [\n' + ",\n".join(json.dumps(one, ensure_ascii=False) for one in rows) + "\n]" for kind, rows in found.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def build_events(home: Home, target: Target, usd_per_vcpu_hour: float | None) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """One build of the warehouse as events of its assets and checks, in the order in which dbt makes them.

    Raises
    ------
    Unavailable
        A model could not be made; what failed, with dbt's words. Windows of a build that failed are made anew by the next one.
    """
    from dagster_dbt import DbtCliResource

    with load(home, target) as batch, _environment(home, target) as work:
        parsed = manifest(home, target)
        results = work / "run_results.json"
        results.unlink(missing_ok=True)
        dbt = DbtCliResource(project_dir=str(PROJECT), profiles_dir=str(PROJECT), dbt_executable=str(dbt_program()), target=target)
        options = ["build", *build_options(usd_per_vcpu_hour)]
        invocation = dbt.cli(options, manifest=parsed, dagster_dbt_translator=_translator(), raise_on_error=False, target_path=work)
        for event in invocation.stream():
            if isinstance(event, dg.AssetMaterialization):
                yield dg.MaterializeResult(asset_key=event.asset_key, metadata={**event.metadata, "windows": len(batch.windows)})
            elif isinstance(event, dg.AssetCheckEvaluation):
                yield dg.AssetCheckResult(
                    asset_key=event.asset_key, check_name=event.check_name, passed=event.passed, severity=event.severity, metadata=event.metadata
                )
        _settle(batch, results, str(invocation.get_error() or ""))


def _settle(batch: Batch, results: Path, said: str) -> None:
    if not results.is_file():
        raise Unavailable(f"dbt ended before it made anything: {' '.join(said.split())[-800:]}")
    nodes = read_results(results)
    if all(node.good for node in nodes):
        batch.settle()
        return
    lost = [node for node in nodes if node.kind == "model" and not node.good]
    if lost:
        raise Unavailable("; ".join(f"{node.name}: {node.status}: {' '.join((node.message or '').split())}" for node in lost)[:2000])


def _translator() -> Any:
    """Our keys and groups for dbt's nodes."""
    from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings

    class Translator(DagsterDbtTranslator):
        def get_asset_key(self, dbt_resource_props: Any) -> dg.AssetKey:
            if dbt_resource_props["resource_type"] == "source":
                return super().get_asset_key(dbt_resource_props)
            return dg.AssetKey(["observe", dbt_resource_props["name"]])

        def get_description(self, dbt_resource_props: Any) -> str:
            return str(dbt_resource_props.get("description") or "").strip()

        def get_group_name(self, dbt_resource_props: Any) -> str:
            return GROUP

    return Translator(settings=DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_duplicate_source_asset_keys=True))


@contextmanager
def _environment(home: Home, target: Target) -> Iterator[Path]:
    """dagster-dbt hands this process' environment to dbt, and reads the profile in it itself."""
    ours = environment(home, target)
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield Path(ours["DBT_TARGET_PATH"])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        DESCRIPTION.write_text(as_text(describe(Home(Path(folder)))), encoding="utf-8")
