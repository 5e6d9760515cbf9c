"""A home that the loop can work in: models, corpus, first index, first release.

What belongs here: what ``demo`` and ``up`` need before the first tick. What must not: traffic, cycles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from predator_si.corpora import Corpus, build_python_docs, import_beir, load_corpus
from predator_si.errors import BadInput, Refused
from predator_si.orchestration.loop import Loop, LoopPlan
from predator_si.records import CycleState, ServingConfig, utc_now
from predator_si.release.deny import SEED_DENY
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import DENY_FILE, seed_release
from predator_si.search.models import fetch_models
from predator_si.settings import DemoScale, Settings

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
_TWIN_QUERIES = 20


def get_corpus(settings: Settings, scale: DemoScale, name: str, base: Path | None, shift: Path | None, on_progress: Progress | None = None) -> Corpus:
    """The corpus by name (python-docs, or an imported one), or from two BEIR folders of which the second arrives later.

    Raises
    ------
    BadInput
        No such corpus, or one whose second part has no judged queries.
    """
    if base is not None and shift is not None:
        folder = settings.folders.corpus / f"{Path(base).stem}+{Path(shift).stem}"
        shutil.rmtree(folder, ignore_errors=True)
        corpus = import_beir(base, folder, name=folder.name, shift=shift)
    elif name == "python-docs":
        corpus = build_python_docs(settings.cache, limit_per_package=scale.documents_per_package, on_progress=on_progress)
    elif (settings.folders.corpus / name / "manifest.json").is_file():
        corpus = load_corpus(settings.folders.corpus / name)
    else:
        known = sorted(path.parent.name for path in settings.folders.corpus.glob("*/manifest.json"))
        raise BadInput(f"corpus {name!r}: there are {', '.join(['python-docs', *known])}. `predator-si corpus import DIR --shift DIR` adds one.")
    for part in ("base", "shift"):
        for split in ("train", "dev"):
            if corpus.queries(split=split, part=part).height < 10:
                raise BadInput(
                    f"corpus {corpus.name}: part {part} has fewer than 10 {split} queries; the loop cannot measure with so few. Use a larger collection."
                )
    return corpus


def get_models(loop: Loop, scale: DemoScale, on_progress: Progress | None = None) -> tuple[str, Path]:
    """(digest of the first champion in the model store, folder of the bi-encoder): real weights, or tiny seeded ones."""
    if scale.models == "real":
        from predator_si.train.export import export

        folders = fetch_models(loop.settings.cache, ("ms-marco-MiniLM-L-12-v2", "all-MiniLM-L6-v2"), on_progress)
        original = folders["ms-marco-MiniLM-L-12-v2"]
        raw = loop.models.add(original, name="ms-marco-MiniLM-L-12-v2", backend="torch-fp32", max_length=512, base="ms-marco-MiniLM-L-12-v2")
        return export(loop.models, raw, "torch-fp32", scale.champion_length), folders["all-MiniLM-L6-v2"]
    return _tiny_models(loop, scale)


def _tiny_models(loop: Loop, scale: DemoScale) -> tuple[str, Path]:
    """A two-layer body with a seeded head that knows nothing yet, and an embedder that hashes words: the loop has everything to teach."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from predator_si.search.tiny import HashingEmbedder
    from predator_si.train.export import export

    embedder = HashingEmbedder().save(loop.home.path / "embedder")
    body = fetch_models(loop.settings.cache, ("bert-tiny",))["bert-tiny"]
    work = loop.home.path / "tiny"
    shutil.rmtree(work, ignore_errors=True)
    torch.manual_seed(scale.seed)
    AutoModelForSequenceClassification.from_pretrained(str(body), num_labels=1, local_files_only=True, use_safetensors=True).save_pretrained(str(work))
    for file in body.glob("tokenizer*"):
        shutil.copy2(file, work / file.name)
    raw = loop.models.add(work, name="bert-tiny", backend="torch-fp32", max_length=scale.champion_length, base="bert-tiny")
    return export(loop.models, raw, "torch-fp32", scale.champion_length), embedder


def prepare_home(
    settings: Settings,
    scale: DemoScale,
    corpus_name: str = "python-docs",
    base: Path | None = None,
    shift: Path | None = None,
    say: Say = lambda text: None,
    on_progress: Progress | None = None,
) -> Loop:
    """Models, corpus and plan in place; state of an earlier demo is set aside, its models, artifacts and ledger stay.

    Raises
    ------
    Refused
        The services of this home are running.
    """
    settings.folders.ensure()
    loop = Loop(settings)
    say("corpus")
    corpus = get_corpus(settings, scale, corpus_name, base, shift, on_progress)
    _set_aside(loop)
    say("models")
    champion, embedder = get_models(loop, scale, on_progress)
    (loop.home.path / "plan.json").write_text(LoopPlan(corpus=corpus.folder, embedder=embedder, scale=scale, prepared_at=utc_now()).to_json())
    _seed_repository(loop, ServingConfig(model=champion, depth=scale.depth, fusion_weight=scale.fusion_weight))
    return loop


def take_time(loop: Loop) -> None:
    """From now on this home's watch and trials are as long as its contour says: only while a demo runs are they cut short."""
    if loop.plan.scale.hurries:
        plan = loop.plan.model_copy(update={"scale": loop.plan.scale.model_copy(update={"hurries": False})})
        (loop.home.path / "plan.json").write_text(plan.to_json())


def _set_aside(loop: Loop) -> None:
    """Move the served state of an earlier run into ``archive/``; a cycle that was left open by a killed run ends as failed, artifacts kept."""
    home = loop.home
    if _alive(home.up_pid):
        raise Refused(f"{home.path}: the services of this home are running. Stop them first: `predator-si down`.")
    cycle = loop.control.active_cycle(loop.contour)
    if cycle is not None:
        loop.control.transition(cycle.cycle_id, CycleState.FAILED, "the run that worked on it ended without finishing it", "demo")
    if not (home.path / "plan.json").is_file():
        return
    archive = home.path / "archive" / f"{utc_now():%Y%m%dT%H%M%S%f}"
    archive.mkdir(parents=True)
    for name in ("service", "snapshots", "applied", "baseline.json", "plan.json"):
        if (home.path / name).exists():
            (home.path / name).rename(archive / name)
    home.ensure()


def _alive(pid_file: Path) -> bool:
    """Whether the supervisor that `up` wrote down still lives."""
    import psutil

    try:
        written = json.loads(pid_file.read_text())
        return bool(abs(psutil.Process(int(written["pid"])).create_time() - float(written["started"])) < 1.0)
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def _seed_repository(loop: Loop, serving: ServingConfig) -> None:
    """The first release, or, in a home that has a history, a commit that returns to it."""
    files = {loop.release_name: seed_release(serving, loop.contour), DENY_FILE: SEED_DENY}
    if loop.settings.values.gitops.url is not None:
        loop.repo.sync()  # a repository of people's: what it holds already, it keeps
        loop.repo.change(lambda held: {name: text for name, text in files.items() if name not in held}, "seed: the machine-owned files")
    elif not loop.home.gitops_bare.exists():
        GitOpsRepo.init_bare(loop.home.gitops_bare, files)
    else:
        loop.repo.sync()
        loop.repo.change(lambda _: files, "seed: return to the first champion")
    loop.control.append("seeded", "demo", None, f"champion {serving.model}", serving.model_dump())


def prepare_for_service(
    settings: Settings,
    scale: DemoScale,
    say: Say = lambda text: None,
    on_progress: Progress | None = None,
    corpus_name: str = "python-docs",
) -> Loop | None:
    """What `up` needs in a home that was never set up: models, corpus, an index of all documents, the first release, the checked twin.

    A home that has all of it is left as it is, whatever its scale, and None is returned; one whose setting-up was cut short is set up anew.

    Raises
    ------
    Refused
        The services of this home are running.
    """
    settings.folders.ensure()
    lacking = not_prepared(Loop(settings))
    if not lacking:
        return None
    say(f"setting up {settings.home}, once: {', '.join(lacking)} missing")
    loop = prepare_home(settings, scale, corpus_name, say=say, on_progress=on_progress)
    say("index of all documents")
    build_first_index(loop, on_progress, part=None)
    say("check of the champion's fast twin")
    check_twin(loop, part=None)
    register_champion(loop)
    return loop


def not_prepared(loop: Loop) -> list[str]:
    """What a home lacks before its services can start and its loop can tick."""
    from predator_si.search.index_versions import IndexVersions

    missing = []
    if not (loop.home.path / "plan.json").is_file():
        missing.append("plan")
    if not IndexVersions(loop.home.index).versions():
        missing.append("index")
    if not _has_release(loop):
        return [*missing, "release"]
    champion = loop.serving().model
    if champion not in loop.models:
        missing.append("champion's weights")
    elif loop.models.card(champion).backend.startswith("torch") and loop.models.twin(champion) is None:
        missing.append("checked twin")
    return missing


def _has_release(loop: Loop) -> bool:
    """Whether the repository holds a release file for this contour; one that does not answer raises."""
    if loop.settings.values.gitops.url is None and not loop.home.gitops_bare.is_dir():
        return False
    loop.repo.sync()
    return loop.release_name in loop.repo.files()


def make_dagster_storage(settings: Settings) -> bool:
    """Make the databases of a Dagster instance that has none; whether it had none.

    Webserver, daemon and code servers that all start on an empty folder write its schema at once, and leave it with two versions.
    """
    folder = settings.folders.dagster
    if all((folder / name).is_file() for name in ("history/runs.db", "history/runs/index.db", "schedules/schedules.db")):
        return False
    import dagster as dg

    with dg.DagsterInstance.from_config(str(folder)) as instance:
        instance.all_asset_keys()
    return True


def register_champion(loop: Loop) -> None:
    """Tell MLflow which model serves first; a challenger of an earlier life of this home is none any more."""
    from predator_si.orchestration.steps import aliases
    from predator_si.orchestration.tracking import MlflowTracker

    champion, tracker = loop.serving().model, MlflowTracker(loop.home)
    tracker.register(champion, loop.models.path(champion), {"origin": "seed"})
    aliases.follow(loop, tracker)


def build_first_index(loop: Loop, on_progress: Progress | None = None, part: str | None = "base") -> None:
    """Index a part of the corpus, or all of it, and publish that as the home's first version."""
    from predator_si.search.index_builds import write_inventory
    from predator_si.search.index_versions import IndexVersions
    from predator_si.search.retrieve import HybridIndex, load_embedder

    documents = loop.corpus.documents(part)
    index = HybridIndex.build(documents, load_embedder(loop.plan.embedder), on_progress)
    write_inventory(loop.home.index, documents)
    IndexVersions(loop.home.index).publish(index)


def check_twin(loop: Loop, part: str | None = "base") -> dict[str, object]:
    """Make the champion's fast twin and see that it ranks alike, on dev queries of a part, or of all."""
    from predator_si.evaluate.optimise import fast_twin
    from predator_si.orchestration.steps.observe import frozen_sample

    serving = loop.serving()
    queries = frozen_sample(loop.corpus.queries(split="dev", part=part), _TWIN_QUERIES, loop.plan.scale.seed)
    twin, check = fast_twin(loop.models, serving.model, queries, loop.corpus.judgments(split="dev"), loop.index().candidates, serving.depth)
    loop.control.append("twin_checked", "demo", None, f"{twin} scores for {serving.model}", {"check": check})
    return {"twin": twin, **check}
