"""How often our decisions are wrong: what `predator-si simulate` counted, on an asset's page."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from predator_si.errors import Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.characteristics import changed_since, newest_simulation
from predator_si.reports import as_markdown
from predator_si.reports.characteristics import characteristics


@dg.asset(key=["experiment", "operating_characteristics"], group_name="experiment", kinds={"numpy"}, owners=["team:search"], code_version="1")
def operating_characteristics(context: dg.AssetExecutionContext, loop: dg.ResourceParam[Loop]) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The newest simulation of this home: false promotions and rollbacks with exact bounds, how soon a regression is found, ten months of the loop."""
    try:
        found = newest_simulation(loop)
    except Missing as error:  # it stands in a monthly job: a home that never simulated is no failure
        return dg.MaterializeResult(metadata={"unknown": str(error)})
    return dg.MaterializeResult(metadata={"settings_in_force": "; ".join(changed_since(loop, found)) or "as simulated", **characteristics_metadata(found)})


def characteristics_metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """Goals of a simulation and whether they are met, its promises that do not hold, and its pictures."""
    goals = [
        dg.TableRecord(
            {
                "goal": one["name"],
                "found": "never" if one["value"] is None else f"{one['value']:.4g}",
                "at": f"{one['goal']:.4g}",
                "met": "yes" if one["met"] else "no",
            }
        )
        for one in found["goals"]
    ]
    shown: dict[str, Any] = {key: found.get(key, "unknown") for key in ("contour", "created_at")}
    shown |= {"scale": found["scale"], "lives": found["lives"], "goals": dg.MetadataValue.table(goals)}
    shown |= {f"{key}_upper": float(found[key]["upper"]) for key in ("false_rollback", "false_promotion_month")}
    shown["broken"] = "; ".join(found["broken"]) or "none"
    return shown | {name: dg.MetadataValue.md(as_markdown(picture, name)) for name, picture in characteristics(found, "png").items()}
