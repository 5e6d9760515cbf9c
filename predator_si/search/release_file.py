"""The machine-owned release file and deny list, read strictly.

What belongs here: bytes to a ``Release``, or one message about what is wrong. What must not: loading models, following changes (``variants``), writing
these files (``release``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predator_si.errors import BadInput, Missing
from predator_si.records import Record
from predator_si.search.index_builds import BUILD_NAME, FIRST

_DIGEST = r"^sha256:[0-9a-f]{64}$"
_LARGEST = 256 * 1024
_Keys = TypeVar("_Keys", bound=BaseModel)


Mode = Literal["ab", "shadow", "interleave"]


class Release(Record):
    """What the service is told to run with."""

    champion: str
    candidate: str | None
    candidate_weight: float
    """Share that the trial touches, 0 to 1: of the clients, or in mode ``shadow`` of the requests. Without a candidate it has no effect."""
    depth: int
    """How many candidates the cross-encoder reads at most; 0 serves the first stage's order."""
    early_exit: bool = False
    """Stop before ``depth`` once the first page is settled, where the model has a rule for it (``adaptive_depth``)."""
    backend: str
    """``auto`` (what each model's card says), or the backend that the champion must have."""
    fusion_weight: float
    """Share of the first stage in the final score, from ``fusion.weights``: firstStage / (rerank + firstStage)."""
    replicas: int
    ingest_workers: int
    sha256: str
    """Of the file's bytes."""
    candidate_depth: int | None = None
    """What the candidate runs with where it is tried with settings of its own; null: as the champion."""
    candidate_fusion_weight: float | None = None
    candidate_early_exit: bool | None = None
    index_build: str = FIRST
    """Which index serves: a build of ``index_builds``, or the home's first one."""
    candidate_index: str | None = None
    """The candidate's own, where it is tried with another one than the champion's."""
    candidate_mode: Mode = "ab"
    """How the candidate is tried: it answers a share of the clients, is scored off the user's path, or shares result lists with the champion."""
    shadow: str | None = None
    """The champion before this one, kept warm: it answers nobody but scores a share of the requests again."""
    shadow_share: float = 0.1
    """Share of the requests that it scores."""
    shadow_depth: int | None = None
    """What it runs with where that is not what the champion runs with."""
    shadow_fusion_weight: float | None = None
    shadow_early_exit: bool | None = None

    def stops_early(self, variant: str) -> bool:
        """Whether a variant stops scoring once the first page is settled, where its model has a rule for it."""
        own = {"candidate": self.candidate_early_exit, "shadow": self.shadow_early_exit}.get(variant)
        return self.early_exit if own is None else own

    def settings_of(self, variant: str) -> tuple[int, float]:
        """(depth, first stage's share) that a variant ranks with."""
        own = {"candidate": (self.candidate_depth, self.candidate_fusion_weight), "shadow": (self.shadow_depth, self.shadow_fusion_weight)}
        depth, weight = own.get(variant, (None, None))
        return self.depth if depth is None else depth, self.fusion_weight if weight is None else weight


class DenyList(Record):
    """Digests that must never be served again, with the reason each was given."""

    reasons: dict[str, str]
    sha256: str

    def reason_against(self, digest: str, source_digest: str | None) -> str | None:
        """Why a model with this digest, or made from weights with that one, is refused; None when it is not."""
        for found in (digest, source_digest):
            if found is not None and found in self.reasons:
                return f"{found} is on the deny list: {self.reasons[found]}"
        return None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _RerankerKeys(_Strict):
    champion: str = Field(pattern=_DIGEST)
    candidate: str | None = Field(default=None, pattern=_DIGEST)
    candidateWeight: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    candidateDepth: int | None = Field(default=None, ge=0, le=1000)
    candidateFirstStage: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    candidateEarlyExit: bool | None = None
    candidateMode: Mode = "ab"
    shadow: str | None = Field(default=None, pattern=_DIGEST)
    shadowShare: float = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)
    shadowDepth: int | None = Field(default=None, ge=0, le=1000)
    shadowFirstStage: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    shadowEarlyExit: bool | None = None
    depth: int = Field(default=20, ge=0, le=1000)
    earlyExit: bool = False
    backend: Literal["auto", "torch-fp32", "torch-bf16", "onnx-int8", "openvino-int8", "openvino-bf16", "openvino-f32"] = "auto"


class _Weights(_Strict):
    rerank: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    firstStage: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class _Fusion(_Strict):
    weights: _Weights = _Weights()


class _Ingest(_Strict):
    workers: int = Field(default=1, ge=1, le=64)


class _Index(_Strict):
    build: str = Field(default=FIRST, pattern=BUILD_NAME)
    candidateBuild: str | None = Field(default=None, pattern=BUILD_NAME)


class _ReleaseKeys(_Strict):
    reranker: _RerankerKeys
    fusion: _Fusion = _Fusion()
    replicas: int = Field(default=1, ge=1, le=1000)
    ingest: _Ingest = _Ingest()
    index: _Index = _Index()


class _Denied(BaseModel):
    """One entry; the keys that people read (cycle, at) may hold anything."""

    model_config = ConfigDict(extra="allow", strict=True)
    digest: str = Field(pattern=_DIGEST)
    sourceDigest: str | None = Field(default=None, pattern=_DIGEST)
    contour: str | None = None
    reason: str = "no reason was given"


class _DenyKeys(_Strict):
    denied: list[_Denied] = []


def parse_release(data: bytes, origin: str) -> Release:
    """The release in ``data``; ``origin`` names the file in messages.

    Raises
    ------
    BadInput
        Not YAML, a key twice, an unknown key, a value out of its range: the message names the key.
    """
    keys = _validated(_ReleaseKeys, _yaml(data, origin), origin)
    weights = keys.fusion.weights
    if weights.rerank + weights.firstStage <= 0:
        raise BadInput(f"{origin}: fusion.weights: both are 0, so nothing would order the results. Give at least one a positive weight.")
    return Release(
        champion=keys.reranker.champion,
        candidate=keys.reranker.candidate,
        candidate_weight=keys.reranker.candidateWeight,
        depth=keys.reranker.depth,
        early_exit=keys.reranker.earlyExit,
        backend=keys.reranker.backend,
        fusion_weight=weights.firstStage / (weights.rerank + weights.firstStage),
        replicas=keys.replicas,
        ingest_workers=keys.ingest.workers,
        sha256=hashlib.sha256(data).hexdigest(),
        candidate_depth=keys.reranker.candidateDepth,
        candidate_fusion_weight=keys.reranker.candidateFirstStage,
        candidate_early_exit=keys.reranker.candidateEarlyExit,
        index_build=keys.index.build,
        candidate_index=keys.index.candidateBuild,
        candidate_mode=keys.reranker.candidateMode,
        shadow=keys.reranker.shadow,
        shadow_share=keys.reranker.shadowShare,
        shadow_depth=keys.reranker.shadowDepth,
        shadow_fusion_weight=keys.reranker.shadowFirstStage,
        shadow_early_exit=keys.reranker.shadowEarlyExit,
    )


def parse_denied(data: bytes, origin: str, contour: str | None = None) -> DenyList:
    """The deny list in ``data``. An entry denies its ``digest`` and, where it has one, its ``sourceDigest``;
    one that names another contour than ``contour`` denies nothing here.

    Raises
    ------
    BadInput
        As ``parse_release``. A deny list that cannot be read denies nobody by name, so callers must not go on as if it were empty.
    """
    reasons: dict[str, str] = {}
    for entry in _validated(_DenyKeys, _yaml(data, origin) or {}, origin).denied:
        if contour is not None and entry.contour not in (None, contour):
            continue
        for digest in (entry.digest, entry.sourceDigest):
            if digest is not None:
                reasons.setdefault(digest, entry.reason)
    return DenyList(reasons=reasons, sha256=hashlib.sha256(data).hexdigest())


def read_bytes(path: Path) -> bytes:
    """Bytes of a small configuration file.

    Raises
    ------
    Missing
        There is no such file.
    BadInput
        It cannot be read, or is far too large for what it should be.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise BadInput(f"{path}: {path.stat().st_size} bytes, but a release or deny file has at most {_LARGEST}. Restore it from the GitOps repository.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Missing(f"{path}: no such file. The reconciler writes it from the GitOps repository; start the reconciler, or apply a release first.") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error}). Check its permissions.") from error


def _yaml(data: bytes, origin: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{origin}: not UTF-8 text ({error}). Restore it from the GitOps repository.") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInput(f"{origin}{where}: not readable as YAML: {problem}. Restore it from the GitOps repository.") from error


def _validated(schema: type[_Keys], found: Any, origin: str) -> _Keys:
    try:
        return schema.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        raise BadInput(f"{origin}: {key}: {first['msg']}. The keys and ranges are in CONTRACT.md section 5; restore the file or correct the key.") from error
