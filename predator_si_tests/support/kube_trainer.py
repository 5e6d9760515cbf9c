"""What stands in a training image of its own: it knows Dagster Pipes and nothing else of Dagster. Minimises a parabola and reports how far it came."""

from __future__ import annotations

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    place = 1.0
    for epoch in range(int(pipes.get_extra("epochs"))):
        place -= 0.25 * 2 * place
        print(f"epoch {epoch}: {place}", flush=True)
    pipes.log.info("trained in a pod of its own")
    pipes.report_asset_materialization(metadata={"loss": place**2, "epochs": pipes.get_extra("epochs")}, data_version="v1")
