"""`bench ...`: figures of this machine, beside peers where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli import bench_augment, bench_control, bench_react, bench_rerank, bench_serve, bench_train
from predator_si.cli.choices import settings_of
from predator_si.cli.screen import remark, say, show_json, show_table, stages

app = typer.Typer(help="Measure this machine: the metrics engine beside its peers, the diagnosis against planted faults.", no_args_is_help=True)
bench_augment.register(app)
bench_control.register(app)
bench_react.register(app)
bench_rerank.register(app)
bench_serve.register(app)
bench_train.register(app)


@app.command("metrics")
def metrics(
    events: Annotated[int, typer.Option(min=1, help="Requests to measure, a multiple of 100,000; 10,000,000 takes about 5 GB of disk.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the events that are made up.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where the files go for the time of the run [default: the temporary folder].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Measure the metrics engine from Parquet to the full snapshot, and pytrec_eval, ranx and ir-measures on the first 200,000 requests.

    Example: `predator-si bench metrics --events 10000000 --json bench-metrics.json`
    """
    from predator_si.proof.bench_metrics import bench_metrics

    with stages() as (tell, report):
        found = bench_metrics(events, seed, folder=folder, tell=tell, on_progress=report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        say(f"{found['events']:,} requests to the snapshot: {found['seconds']:.2f} s, {found['peak_rss_mb']:.0f} MB")
        ratios = ", ".join(f"{found[f'ratio_{name}']:.1f} times {name}" for name in ("pytrec_eval", "ir_measures", "ranx"))
        say(f"speed on {found['peer_queries']:,} requests: {ratios}; largest difference {found['max_abs_difference']:.1e}")
        if found["slope"] is not None:
            say(f"slope of log time over log requests: {found['slope']:.2f}")
        if found["tick_seconds"] is not None:
            say(f"a tick over a new window of 1,000,000 requests: {found['tick_seconds']:.2f} s; after late events: {found['late_tick_seconds']:.2f} s")


@app.command("diagnose")
def diagnose(
    context: typer.Context,
    seeds: Annotated[int, typer.Option(min=1, help="Windows of each fault; each seed draws other queries.")] = 20,
    healthy: Annotated[int, typer.Option(min=0, help="Windows with nothing wrong.")] = 200,
    first_seed: Annotated[int, typer.Option(min=0, help="First seed; development used 1000 and up.")] = 0,
    fault: Annotated[list[str] | None, typer.Option(help="Only this fault; may be given several times.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write the confusion matrix here as a Markdown table.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Plant faults in data, index, service and judgments from outside, and count how often the diagnosis names the right cause first.

    Example: `predator-si bench diagnose --seeds 20 --healthy 200 --json diagnose.json`
    """
    from predator_si.proof.bench_diagnose import BenchSizes, bench_diagnose, confusion_table

    figures = bench_diagnose(settings_of(context).cache, BenchSizes(seeds, healthy, first_seed), remark, tuple(fault or ()))
    if table is not None:
        table.write_text(confusion_table(figures), encoding="utf-8")
    if json_file is not None:
        show_json(figures, json_file)
    if json_file is None or str(json_file) != "-":
        rows = [(name, row["right"], f"{row['first']}/{row['windows']}", f"{row['in_top_two']}/{row['windows']}") for name, row in figures["per_fault"].items()]
        show_table("Faults", ("planted", "right cause", "first", "top two"), rows, "no fault could be planted")
        if figures["n"]:
            say(f"first {figures['top1']:.3f}, top two {figures['top2']:.3f} of {figures['n']} windows")
        if figures["healthy_windows"]:
            say(f"alarms in healthy windows {figures['false_alarm_rate']:.3f} of {figures['healthy_windows']}; {figures['seconds']:.0f} s")
