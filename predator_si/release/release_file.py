"""The machine-owned files as text: read with a schema and line numbers, changed without losing a comment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from io import StringIO
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark, MarkedYAMLError, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from predator_si.errors import BadInput
from predator_si.records import ModelCard, Record, ServingConfig
from predator_si.search.index_builds import BUILD_NAME, FIRST

DENY_FILE = "deny.yaml"
_LARGEST = 256 * 1024
_MOST_NODES = 20_000
_MOST_SERVED = 0.5
_CONTOUR = re.compile(r"^[a-z0-9][a-z0-9-]*$")

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_BACKENDS = ("auto", *get_args(ModelCard.model_fields["backend"].annotation))
_R = TypeVar("_R", bound=Record)


class _Section(Record):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_by_alias=True, validate_by_name=True, allow_inf_nan=False)


class Reranker(_Section):
    """Which models serve, and how deep they look."""

    champion: Digest
    candidate: Digest | None = None
    candidate_mode: Literal["ab", "shadow", "interleave"] = Field(default="ab", alias="candidateMode")
    """How it is tried: it serves a share of the clients, scores a share of the requests off the user's path, or shares result lists with the champion."""
    candidate_weight: float = Field(default=0.0, ge=0.0, le=1.0, alias="candidateWeight")
    """Share of the clients (mode ``ab``: at most half; ``interleave``) or of the requests (``shadow``) that the trial touches."""
    candidate_depth: int | None = Field(default=None, ge=0, le=200, alias="candidateDepth")
    """Where the candidate is tried with another depth than the champion's."""
    candidate_first_stage: float | None = Field(default=None, ge=0.0, le=1.0, alias="candidateFirstStage")
    """Where it is tried with another share of the first stage."""
    candidate_early_exit: bool | None = Field(default=None, alias="candidateEarlyExit")
    """Where it is tried with or without a depth rule, unlike the champion."""
    shadow: Digest | None = None
    """The champion before this one, kept warm: it answers nobody but scores a share of the requests again."""
    shadow_share: float = Field(default=0.1, ge=0.0, le=1.0, alias="shadowShare")
    """That share of the requests."""
    shadow_depth: int | None = Field(default=None, ge=0, le=200, alias="shadowDepth")
    """What it runs with, where that is not what the champion runs with; so the next two."""
    shadow_first_stage: float | None = Field(default=None, ge=0.0, le=1.0, alias="shadowFirstStage")
    shadow_early_exit: bool | None = Field(default=None, alias="shadowEarlyExit")
    depth: int = Field(default=20, ge=0, le=200)
    """Candidates that the reranker reads per query; 0 switches it off."""
    early_exit: bool = Field(default=False, alias="earlyExit")
    """Whether scoring stops once the first page is settled, where the model has a rule for it."""
    backend: str = "auto"
    """``auto`` runs a model as its card says."""

    @field_validator("backend")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in _BACKENDS:
            raise ValueError(f"{value!r} is not one of {', '.join(_BACKENDS)}")
        return value

    @field_validator("candidate_weight")
    @classmethod
    def _half_at_most(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("candidate_mode") == "ab" and value > _MOST_SERVED:
            raise ValueError(f"a candidate that nothing was proven of serves at most {_MOST_SERVED:g} of the clients")
        return value

    @model_validator(mode="after")
    def _weight_needs_a_candidate(self) -> Self:
        if self.candidate is None and self.candidate_weight > 0.0:
            raise ValueError(f"candidateWeight is {self.candidate_weight:g} without a candidate")
        return self


class FusionWeights(_Section):
    """How the two scores are mixed; only their ratio counts."""

    rerank: float = Field(default=1.0, ge=0.0, le=1.0)
    first_stage: float = Field(default=0.0, ge=0.0, le=1.0, alias="firstStage")

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.rerank + self.first_stage <= 0.0:
            raise ValueError("rerank and firstStage are both 0: nothing would rank the documents")
        return self


class Fusion(_Section):
    """The fusion rule."""

    weights: FusionWeights = FusionWeights()


class Ingest(_Section):
    """The ingest queue."""

    workers: int = Field(default=1, ge=1, le=8)


class Index(_Section):
    """The first stage."""

    build: str = Field(default=FIRST, pattern=BUILD_NAME)
    """Which index serves; ``first`` is the one that the home was prepared with."""
    candidate_build: str | None = Field(default=None, pattern=BUILD_NAME, alias="candidateBuild")
    """Where the candidate is tried with another index."""


class ReleaseFile(_Section):
    """``release-<contour>.yaml``: what is served, within the bounds that the loop may move in."""

    reranker: Reranker
    fusion: Fusion = Fusion()
    replicas: int = Field(default=1, ge=1, le=20)
    ingest: Ingest = Ingest()
    index: Index = Index()

    @property
    def serving(self) -> ServingConfig:
        """The champion's configuration; ``fusion_weight`` is the first stage's share."""
        weights = self.fusion.weights
        return ServingConfig(
            model=self.reranker.champion,
            depth=self.reranker.depth,
            fusion_weight=weights.first_stage / (weights.rerank + weights.first_stage),
            early_exit=self.reranker.early_exit,
            index=None if self.index.build == FIRST else self.index.build,
        )


OWNED_KEYS = frozenset(
    {
        "reranker.champion", "reranker.candidate", "reranker.candidateWeight", "reranker.candidateDepth", "reranker.candidateFirstStage",
        "reranker.candidateEarlyExit", "reranker.candidateMode",
        "reranker.shadow", "reranker.shadowShare", "reranker.shadowDepth", "reranker.shadowFirstStage", "reranker.shadowEarlyExit",
        "reranker.depth", "reranker.earlyExit", "reranker.backend",
        "fusion.weights.rerank", "fusion.weights.firstStage", "replicas", "ingest.workers", "index.build", "index.candidateBuild",
    }
)  # fmt: skip
"""Dotted keys that a patch may set."""


def release_name(contour: str) -> str:
    """Path of the contour's release file in the GitOps repository."""
    if not _CONTOUR.match(contour):
        raise BadInput(f"{contour!r} is not a contour name: lower-case letters, digits and hyphens.")
    return f"release-{contour}.yaml"


def contour_of(file: str) -> str:
    """Whose release file ``file`` is: the way back from :func:`release_name`."""
    return file.removeprefix("release-").removesuffix(".yaml")


def seed_release(serving: ServingConfig, contour: str) -> str:
    """The first release file of a contour: ``serving`` as champion, no candidate, with a comment for every key. A trial or a watch adds its own."""
    if not re.match(r"^sha256:[0-9a-f]{64}$", serving.model):
        raise BadInput(f"{serving.model!r} is not a model digest; it looks like sha256:<64 hex digits>.")
    text = f"""\
# What contour {contour} serves. Owned by predator_si: it commits here, and the service follows this file.
# A person may edit it too; the loop then refuses to reverse the keys that were edited.
reranker:
  champion: {serving.model}
  candidate: null  # the challenger on trial
  candidateWeight: 0.0  # its share of the clients, at most 0.5
  depth: {serving.depth}  # candidates that are reranked per query, at most
  earlyExit: {str(serving.early_exit).lower()}  # stop once the first page is settled, where the model has a rule for it
  backend: auto  # as the model's card says
fusion:
  weights:  # of the standardised scores
    rerank: {round(1.0 - serving.fusion_weight, 6)}
    firstStage: {round(serving.fusion_weight, 6)}
replicas: 1
ingest:
  workers: 1
index:
  build: first  # the index that the first stage asks; the loop may put another build in its place
"""
    parse_release(text, release_name(contour))
    return text


def parse_release(text: str, name: str) -> ReleaseFile:
    """Read a release file.

    Parameters
    ----------
    text
        YAML.
    name
        Named in errors: the path, and where it comes from.

    Raises
    ------
    BadInput
        Not YAML, an unknown key, a missing one, or a value out of its bounds; the message names file, line and key.
    """
    return validated(ReleaseFile, load(text, name), name)


# --------------------------------------------------------------------------- YAML that keeps its comments


class _Portable(RoundTripRepresenter):
    def represent_null(self, data: None) -> Any:
        # ruamel writes nothing for null; a key without a value looks like an accident
        return self.represent_scalar("tag:yaml.org,2002:null", "null")

    def represent_number(self, data: float) -> Any:
        # YAML 1.1 readers take 2e-05 for text; 2.0e-05 is a number to all
        text = repr(float(data))
        mantissa, letter, exponent = text.partition("e")
        return self.represent_scalar("tag:yaml.org,2002:float", f"{mantissa}.0e{exponent}" if letter and "." not in mantissa else text)


_Portable.add_representer(type(None), _Portable.represent_null)
_Portable.add_representer(float, _Portable.represent_number)


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.Representer = _Portable
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def load(text: str, name: str) -> CommentedMap:
    """YAML with its comments; the top level must be a mapping."""
    if len(text) > _LARGEST:
        raise BadInput(f"{name}: {len(text)} characters, a file of settings has at most {_LARGEST}. Restore the file from Git's history.")
    try:
        document = _yaml().load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise BadInput(
            f"{name}{line}: not valid YAML ({(error.problem or 'syntax error').splitlines()[0]}). Correct the line, or restore the file from Git's history."
        ) from error
    except (YAMLError, ValueError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{name}: not valid YAML ({why}). Restore the file from Git's history.") from error
    if not isinstance(document, CommentedMap):
        raise BadInput(f"{name}: empty or not a mapping of keys. Restore the file from Git's history.")
    return document


def dump(document: CommentedMap) -> str:
    """The document as text, comments included."""
    stream = StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def validated(schema: type[_R], document: CommentedMap, name: str) -> _R:
    """``document`` as a record; ``BadInput`` with file, line and key when it does not fit."""
    budget = [_MOST_NODES]
    try:
        return schema.model_validate(_plain(document, budget, name))
    except RecursionError as error:
        raise BadInput(f"{name}: nested too deeply. Restore the file from Git's history.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        message = first["msg"].removeprefix("Value error, ")
        given = "" if isinstance(first.get("input"), dict | list) else f", got {first.get('input')!r}"
        raise BadInput(f"{name}, line {_line(document, first['loc'])}: {where}: {message}{given}. Correct it in the repository.") from error


def _plain(node: Any, budget: list[int], name: str) -> Any:
    """Built-in types only; the budget stops aliases that multiply."""
    budget[0] -= 1
    if budget[0] < 0:
        raise BadInput(f"{name}: more than {_MOST_NODES} values (aliases that multiply?). Restore the file from Git's history.")
    if isinstance(node, Mapping):
        return {str(key): _plain(value, budget, name) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value, budget, name) for value in node]
    if isinstance(node, datetime):
        return datetime.fromisoformat(node.isoformat()).replace(tzinfo=node.tzinfo or UTC)
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None or isinstance(node, date):
        return node
    raise BadInput(f"{name}: a value with the tag {getattr(node, 'tag', type(node).__name__)}; plain values only. Remove the tag.")


def _line(document: Any, path: tuple[int | str, ...]) -> int:
    """Line (from 1) of the deepest part of ``path`` that exists."""
    line, node = 1, document
    for part in path:
        try:
            line = int(node.lc.key(part)[0] if isinstance(node, CommentedMap) else node.lc.item(part)[0]) + 1
            node = node[part]
        except (KeyError, IndexError, AttributeError, TypeError):
            break
    return line


# --------------------------------------------------------------------------- single keys


def owned_values(release: ReleaseFile) -> dict[str, Any]:
    """Dotted owned key -> the value in force, which is the default where the file leaves the key out."""
    tree = release.model_dump(by_alias=True)
    return {key: _dig(tree, key) for key in OWNED_KEYS}


def _dig(tree: Mapping[str, Any], dotted: str) -> Any:
    node: Any = tree
    for part in dotted.split("."):
        node = node[part]
    return node


def set_value(document: CommentedMap, dotted: str, value: Any) -> None:
    """Set a dotted key, with its sections where they are missing. Nothing is ever removed: a comment may hang on it.

    A comment behind the value keeps its distance, so that a value that is set and set back gives the same text.
    """
    *sections, leaf = dotted.split(".")
    node = document
    for part in sections:
        node = node.setdefault(part, CommentedMap())
    behind = (node.ca.items.get(leaf) or [None] * 3)[2]
    if behind is not None and behind.value.startswith("#"):
        behind.start_mark = CommentMark(behind.start_mark.column + _length(value) - _length(node.get(leaf)))
    node[leaf] = value


def _length(value: Any) -> int:
    """Characters of a value as it is written."""
    return len(dump(CommentedMap(k=value)))
