"""The Dockerfiles keep the rules of images, each rule shown to catch its breach. No image is built here: there is no Docker."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
SECRET = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|API_?KEY|PRIVATE|CREDENTIAL", re.IGNORECASE)


class Dockerfile:
    """Instructions by stage."""

    def __init__(self, text: str) -> None:
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        joined = "\n".join(lines).replace("\\\n", " ")
        self.instructions = [(line.split(None, 1)[0].upper(), " ".join(line.split()[1:])) for line in joined.splitlines() if line.strip()]
        self.stages: list[list[tuple[str, str]]] = [[]]
        for one in self.instructions:
            if one[0] == "FROM":
                self.stages.append([])
            self.stages[-1].append(one)
        self.before = self.stages.pop(0)

    def all(self, name: str, stage: list[tuple[str, str]] | None = None) -> list[str]:
        """What stands behind an instruction, in one stage or all of them."""
        return [rest for instruction, rest in (self.instructions if stage is None else stage) if instruction == name]

    @property
    def last(self) -> list[tuple[str, str]]:
        """The stage that becomes the image."""
        return self.stages[-1]


def base_is_pinned_by_who_builds(found: Dockerfile) -> bool:
    bases = {base.split()[0] for base in found.all("FROM")}
    arguments = {rest for name, rest in found.before if name == "ARG" and "=" not in rest}
    return bool(bases) and all(re.fullmatch(r"\$\{(\w+)\}", base) and base[2:-1] in arguments for base in bases)


def tools_stay_behind(found: Dockerfile) -> bool:
    return len(found.stages) >= 2 and not any("pip install" in run or "gcc" in run for run in found.all("RUN", found.last))


def runs_as_a_high_user(found: Dockerfile) -> bool:
    users = found.all("USER", found.last)
    numbers = re.fullmatch(r"(\d+):(\d+)", users[-1]) if users else None
    return numbers is not None and min(map(int, numbers.groups())) >= 10_000 and found.last.index(("USER", users[-1])) > max(
        index for index, (name, _) in enumerate(found.last) if name in ("RUN", "COPY")
    )  # fmt: skip


def says_when_it_is_ill(found: Dockerfile) -> bool:
    checks = found.all("HEALTHCHECK", found.last)
    return len(checks) == 1 and "--interval=" in checks[0] and "--timeout=" in checks[0] and 'CMD ["' in checks[0]


def starts_without_a_shell(found: Dockerfile) -> bool:
    return bool(found.all("CMD", found.last)) and all(rest.startswith('["') for name in ("CMD", "ENTRYPOINT") for rest in found.all(name))


def copies_only_what_it_needs(found: Dockerfile) -> bool:
    if found.all("ADD"):
        return False
    for copy in found.all("COPY"):
        words = copy.split()
        if words[0].startswith("--from=build"):
            continue
        for source in words[:-1]:
            if source in (".", "/", "*") or not list(ROOT.glob(source)) or not all(reaches_the_builder(path) for path in ROOT.glob(source)):
                return False
    return True


def installs_what_is_pinned(found: Dockerfile) -> bool:
    installs = [part for run in found.all("RUN") for part in run.split("&&") if "pip install" in part]
    environment = " ".join(found.all("ENV"))
    return bool(installs) and "PIP_NO_CACHE_DIR=1" in environment and all("-c constraints.txt" in part or "--no-deps" in part for part in installs)


def holds_no_secret(found: Dockerfile) -> bool:
    return not any(SECRET.search(rest) for name in ("ARG", "ENV") for rest in found.all(name)) and "--mount=type=secret" not in str(found.instructions)


def leaves_no_package_lists(found: Dockerfile) -> bool:
    return all("--no-install-recommends" in run and "rm -rf /var/lib/apt/lists/*" in run for run in found.all("RUN") if "apt-get install" in run)


def carries_its_bill(found: Dockerfile) -> bool:
    written = any("bill_of_materials.py >" in run for run in found.all("RUN"))
    return written and any(copy.endswith("/opt/predator-si /opt/predator-si") for copy in found.all("COPY", found.last))


def asks_nobody_home(found: Dockerfile) -> bool:
    return "HF_HUB_OFFLINE=1" in " ".join(found.all("ENV", found.last))


def reaches_the_builder(path: Path) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that names it, or a folder above it, decides."""
    inside, name = True, str(path.relative_to(ROOT))
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        keep, pattern = line.startswith("!"), line.removeprefix("!").removeprefix("**/")
        above = ["/".join(name.split("/")[: end + 1]) for end in range(len(name.split("/")))]
        if any(fnmatch.fnmatch(one, pattern) or ("/" not in pattern and fnmatch.fnmatch(one.rsplit("/", 1)[-1], pattern) and not keep) for one in above):
            inside = keep
    return inside


RULES: list[tuple[Callable[[Dockerfile], bool], str, str]] = [
    (base_is_pinned_by_who_builds, r"FROM \$\{\w+\} AS build", "FROM python:latest AS build"),
    (base_is_pinned_by_who_builds, r"^ARG (PYTHON|CUDA)$", r"ARG \1=python:3.11"),
    (tools_stay_behind, r"^(FROM .*)$(?![\s\S]*^FROM)", r"\1\nRUN pip install -c constraints.txt ipython"),
    (runs_as_a_high_user, r"^USER .*$", "USER root"),
    (runs_as_a_high_user, r"^USER .*$", "USER 1000:1000"),
    (runs_as_a_high_user, r"^(USER .*)$", r"\1\nRUN touch /x"),
    (says_when_it_is_ill, r"^HEALTHCHECK", "LABEL"),
    (starts_without_a_shell, r'^CMD \[".*$', "CMD predator-si up"),
    (copies_only_what_it_needs, r"^COPY predator_si predator_si$", "COPY . ."),
    (copies_only_what_it_needs, r"^COPY predator_si predator_si$", "ADD predator_si predator_si"),
    (copies_only_what_it_needs, r"^COPY predator_si predator_si$", "COPY .git /build/.git"),
    (installs_what_is_pinned, r"-c constraints\.txt", ""),
    (installs_what_is_pinned, r"PIP_NO_CACHE_DIR=1", "PIP_NO_INPUT=1"),
    (holds_no_secret, r"^WORKDIR /build$", "WORKDIR /build\nARG GIT_TOKEN"),
    (carries_its_bill, r"^COPY --from=build /opt/predator-si .*$", ""),
    (asks_nobody_home, r"HF_HUB_OFFLINE=1", ""),
]
"""Each rule with an edit that breaks it."""


@pytest.mark.parametrize("rule", [*dict.fromkeys(rule for rule, _, _ in RULES), leaves_no_package_lists], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_image_keeps_the_rules(file: Path, rule: Callable[[Dockerfile], bool]) -> None:
    assert rule(Dockerfile(file.read_text()))


@pytest.mark.parametrize(("rule", "what", "instead"), RULES, ids=[f"{rule.__name__}-{number}" for number, (rule, _, _) in enumerate(RULES)])
def test_each_rule_catches_its_breach(rule: Callable[[Dockerfile], bool], what: str, instead: str) -> None:
    for file in FILES:
        broken, edits = re.subn(what, instead, file.read_text(), flags=re.MULTILINE)
        assert edits, f"{file.name} has no {what}"
        assert not rule(Dockerfile(broken)), file.name


def test_package_lists_that_stay_are_caught() -> None:
    text = (FOLDER / "platform.Dockerfile").read_text()
    assert not leaves_no_package_lists(Dockerfile(text.replace("&& rm -rf /var/lib/apt/lists/*", "")))
    assert not leaves_no_package_lists(Dockerfile(text.replace("--no-install-recommends", "")))


def test_the_builder_never_sees_what_is_no_part_of_an_image() -> None:
    for name in (
        ".git/config",
        ".predator/control.db",
        "predator_si/.env",
        "deploy/key.pem",
        "predator_si_tests/conftest.py",
        "docs/serving.md",
        "deploy/k8s/dagster.yaml",
    ):
        assert not reaches_the_builder(ROOT / name), name
    for name in ("predator_si/build.py", "constraints.txt", "deploy/helm/predator-umbrella/values-local.yaml"):
        assert reaches_the_builder(ROOT / name), name


def modules_of(start: str) -> Iterator[tuple[str, set[str]]]:
    """Every module of ours that ``start`` may import, at its top or inside a function, with the foreign packages that it names."""
    todo, done = [start], set()
    while todo:
        name = todo.pop()
        path = ROOT / Path(*name.split("."))
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if name in done or not file.is_file():
            continue
        done.add(name)
        todo += [name.rpartition(".")[0]] if "." in name else []
        foreign: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            todo += [one for one in names if one.split(".")[0] == "predator_si"]
            foreign |= {one.split(".")[0] for one in names} - sys.stdlib_module_names - {"predator_si"}
        yield name, foreign


def test_the_serving_image_has_what_the_search_service_imports_and_nothing_else() -> None:
    listed = {re.sub(r"[-_.]+", "-", line).lower() for line in (FOLDER / "serving.txt").read_text().splitlines() if line and not line.startswith("#")}
    distributions = packages_distributions()
    needed: dict[str, str] = {}
    for module, foreign in modules_of("predator_si.search.__main__"):
        for package in foreign:
            needed.setdefault(re.sub(r"[-_.]+", "-", distributions.get(package, [package])[0]).lower(), module)
    assert set(needed) == listed, {name: needed.get(name) for name in set(needed) ^ listed}
    assert not listed & {"dagster", "mlflow", "dvc"}


def test_a_bill_of_materials_lists_what_is_installed() -> None:
    report = subprocess.run([sys.executable, "-m", "pip", "inspect", "--local"], capture_output=True, check=True, timeout=120)
    made = subprocess.run([sys.executable, str(FOLDER / "bill_of_materials.py")], input=report.stdout, capture_output=True, check=True, timeout=60)
    bill = json.loads(made.stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    import pydantic

    found = {component["name"]: component for component in bill["components"]}
    assert found["pydantic"]["purl"] == f"pkg:pypi/pydantic@{pydantic.VERSION}" and "ruamel-yaml" in found
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len(set(references)) == len(json.loads(report.stdout)["installed"])
    empty = subprocess.run([sys.executable, str(FOLDER / "bill_of_materials.py")], input=b"{}", capture_output=True, timeout=60)
    assert empty.returncode != 0 and b"no report of `pip inspect" in empty.stderr
