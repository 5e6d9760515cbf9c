"""`simulate`: what our decisions get wrong, and how often, counted over simulated lives.

What belongs here: options and how figures look. What must not: simulating (``proof.simulate``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.bench_rerank import collection_named
from predator_si.cli.choices import Choices
from predator_si.cli.screen import progress, remark, say, show_json, show_table, stages
from predator_si.errors import BadInput

if TYPE_CHECKING:
    from predator_si.settings import Settings

_MODEL = "ms-marco-MiniLM-L-12-v2"


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("simulate")(simulate)


def simulate(
    context: typer.Context,
    scale: Annotated[str, typer.Option(help="full (50,000 lives for rare errors, 10,000 for detection) or small (seconds, proves little).")] = "full",
    tables: Annotated[Path | None, typer.Option(help="Folder with tables of your own [default: those of the project].")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write the operating characteristics into this folder as SVG pictures.")] = None,
    measure: Annotated[Path | None, typer.Option(help="Make tables in this folder from judged collections, in place of simulating.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="With --measure: python-docs:shift, or the name of an imported corpus; several times.")] = None,
    queries: Annotated[int, typer.Option(min=10, help="With --measure: judged train queries of each corpus, at most.")] = 150,
    timed: Annotated[int, typer.Option(min=5, help="With --measure: of these, queries whose rerank calls are timed.")] = 20,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Count false promotions, false rollbacks and detections of the contour's settings over lives drawn from real scores and times, beside other rules.

    A values file can be tried before it is trusted: `--contour FILE`. Exit code 1 when its settings allow more errors than promised.

    Example: `predator-si simulate --contour my-values.yaml --json simulate.json`
    """
    from predator_si.proof.simulate.plan import plan_of, trial_plan_of
    from predator_si.proof.simulate.run import FULL, SMALL
    from predator_si.proof.simulate.run import simulate as run
    from predator_si.proof.simulate.world import TABLES, read_tables
    from predator_si.reports.characteristics import STORED, characteristics

    if scale not in ("full", "small"):
        raise BadInput(f"--scale {scale!r}: there are full and small.")
    settings = _settings(context)
    if measure is not None:
        _measure(settings, measure, corpus or [], queries, timed, seed)
        return
    if corpus:
        raise BadInput("--corpus names what is measured; it goes with --measure DIR.")
    drawn = read_tables(tables or TABLES)
    with stages() as (tell, report):
        sizes = FULL if scale == "full" else SMALL
        found = run(drawn, plan_of(settings), sizes, trial=trial_plan_of(settings), seed=seed, tell=tell, on_progress=report)
    found["contour"] = settings.contour
    _keep(found, settings.home / STORED, draft=_file(context.find_object(Choices) or Choices()) is not None)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, picture in characteristics(found).items():
            (plots / f"simulate-{name}.svg").write_bytes(picture)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        _show(found)
    for said in found["broken"]:
        remark(f"WARNING: {said}")
    if found["broken"]:
        raise typer.Exit(1)


def _keep(found: dict[str, Any], path: Path, *, draft: bool) -> None:
    """Keep what the UI shows of this home: not what a draft of its settings would do, and not a small run in place of a full one."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if draft:
        remark("these settings are a draft: the figures of this home's own stay as they are in the UI")
    elif found["scale"] == "small" and (kept.get("scale"), kept.get("contour")) == ("full", found["contour"]):
        remark("the figures of a full run stay in the UI; this one was small")
    else:
        show_json(found, path)


def _file(chosen: Choices) -> Path | None:
    """A values file that stands where the name of a contour may."""
    return Path(chosen.contour) if chosen.contour is not None and chosen.contour.endswith((".yaml", ".yml")) else None


def _settings(context: typer.Context) -> Settings:
    """The settings; ``--contour`` may name a values file, which then lies over the contour of its name, or over ``local``."""
    from predator_si.settings import load_settings

    chosen = context.find_object(Choices) or Choices()
    file = _file(chosen)
    if file is None:
        return chosen.settings()
    if chosen.values is not None:
        raise BadInput(f"--contour {file} and --values {chosen.values}: give one file.")
    if not file.is_file():
        raise BadInput(f"--contour {file}: there is no such file.")
    name = file.stem.removeprefix("values-")
    return load_settings(name if name in ("dev-mac", "edge-oracle", "compute-nvidia") else "local", chosen.home, file)


def _measure(settings: Settings, folder: Path, corpora: list[str], queries: int, timed: int, seed: int) -> None:
    from predator_si.evaluate import PairScores
    from predator_si.proof.simulate.measure import TablePlan, measure_tables
    from predator_si.search.models import ModelStore, fetch_models

    settings.folders.ensure()
    with progress(f"fetching {_MODEL}") as report:
        zero_shot = fetch_models(settings.cache, (_MODEL,), report)[_MODEL]
    collections = [collection_named(settings, name, "all-MiniLM-L6-v2") for name in corpora or ["python-docs:base", "python-docs:shift"]]
    plan = TablePlan(queries=queries, timed=timed, seed=seed)
    with stages() as (tell, report), PairScores(settings.folders.pair_scores) as scores:
        facts = measure_tables(collections, zero_shot, ModelStore(settings.folders.models), folder, plan, scores=scores, tell=tell, on_progress=report)
    say(f"{folder}: {sum(facts['queries'].values())} queries and {sum(facts['timed'].values())} timed ones of {len(facts['queries'])} collections")


def _show(found: dict[str, Any]) -> None:
    rows = [(goal["name"], _number(goal["value"]), _number(goal["goal"]), "yes" if goal["met"] else "NO") for goal in found["goals"]]
    show_table("Goals", ("what", "found", "goal", "met"), rows, "no goal")
    rules = [("ours", found), *found["reference_rules"].items()]
    errors = [(rule, _rate(own["false_promotion_month"]), _rate(own["false_promotion"]), _rate(own["false_rollback"])) for rule, own in rules]
    show_table("Errors when nothing is better or worse (exact 95% interval)", ("rule", "promotion, month", "candidate", "rollback"), errors, "nothing")
    detection = []
    for row in found["detection"]:
        others = [_when(found, rule, row) for rule in found["reference_rules"]]
        wide = "" if row["metric"] != "ndcg" else f" (sd {'<=' if row['sd_at_most'] else '>'} .15)"
        own = f"{row['probability']:.1%} at {_number(row['median'])} / {_number(row['p95'])}"
        detection.append((f"{row['metric']} {row['effect']:g}{wide}", own, *others))
    columns = ("what is worse", "ours: found at median / P95", *found["reference_rules"])
    show_table(f"Detection within {found['sizes']['horizon']} observations, over all lives", columns, detection, "nothing")
    _show_trial(found["trial"])
    ours, guide = found["loop"]["ours"], found["loop"]["guide"]
    for name, side in (("ours", ours), ("guide", guide)):
        say(
            f"ten months, {name}: NDCG {side['ndcg_end']:+.3f} at the end, {side['promotions']:.1f} promotions ({side['false_promotions']:.1f} of no gain), "
            f"{side['rollbacks']:.1f} rollbacks ({side['false_rollbacks']:.1f} false), {side['kept_worse']:.1f} worse ones kept, "
            f"{side['oscillations']:.1f} rolled back one after the other"
        )
    watch, trial = found["agreement"]["watch"], found["agreement"]["trial"]
    say(f"{watch['steps']} checks of {watch['lives']} lives and {trial['gates']} gates of {trial['lives']} trials judged by production itself: "
        f"{watch['differences'] + trial['differences']} differences; {found['seconds']:.0f} s")  # fmt: skip


def _show_trial(trial: dict[str, Any]) -> None:
    harmless, chain = trial["harmless"], ", ".join(f"{step['mode']} {step['share']:.0%}" for step in trial["steps"])
    rows = [(f"a harmless one is ended (levels add up to {harmless['spent']:.2%})", _rate(harmless), "over all steps")]
    rows.append(("an equal challenger is called better in some metric", _rate(harmless["better"]), "in the last step"))
    for row in trial["at_limit"]:
        asked = "asked" if row["asked"] else "told; no harm is enough here"
        rows.append((f"worse by {row['margin']:+g} in {row['metric']}, passed", _rate(row), asked))
    for row in trial["time_to_pass"]:
        found = f"{row['probability']:.0%} at {_number(row['median'])} / {_number(row['p95'])}"
        rows.append((f"time x{row['factor']:g}, every asked proof there within {row['requests']} requests", found, "median / P95"))
    show_table(f"A trial in {trial['contour']} ({chain}), exact 95% intervals", ("what", "share", "remark"), rows, "no trial")


def _when(found: dict[str, Any], rule: str, row: dict[str, Any]) -> str:
    same = ("metric", "effect", "sd_at_most")
    own = next((one for one in found["reference_rules"][rule]["detection"] if all(one.get(key) == row.get(key) for key in same)), None)
    return "-" if own is None else f"{own['probability']:.0%} at {_number(own['median'])} / {_number(own['p95'])}"


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:.4g}"


def _rate(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['estimate']:.3%} [{row['lower']:.3%}, {row['upper']:.3%}]"
