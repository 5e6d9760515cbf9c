"""Champion and candidate side by side, and following the release file without refusing a request.

What belongs here: which model answers whom, and the swap. What must not: retrieval, HTTP, deciding which model is better.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.records import ModelCard
from predator_si.search.adaptive_depth import DepthRule, kept_rule
from predator_si.search.release_file import DenyList, Release, parse_denied, parse_release, read_bytes
from predator_si.search.rerank import Reranker

log = logging.getLogger(__name__)

BUCKETS = 10_000
VariantName = Literal["champion", "candidate", "interleaved", "shadow"]
_EMPTY_DENY_LIST = DenyList(reasons={}, sha256=hashlib.sha256(b"").hexdigest())


class Models(Protocol):
    """Where models are kept by digest (``models.ModelStore``)."""

    def path(self, digest: str) -> Path:
        """Folder of the model; raises Missing."""
        ...

    def card(self, digest: str) -> ModelCard:
        """Card of the model; raises Missing."""
        ...

    def twin(self, digest: str) -> str | None:
        """Digest of the same weights on a faster backend, where one was made and checked."""
        ...


def bucket(unit: str) -> int:
    """The bucket, 0 to 9,999, that a client (or a query without one) belongs to for ever: sha256 of its id, modulo the number of buckets."""
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") % BUCKETS


@dataclass(frozen=True, slots=True)
class Variants:
    """What serves at one moment; immutable, so a request that holds it is not touched by a swap."""

    release: Release
    champion: Reranker
    candidate: Reranker | None
    twin: Reranker | None = None
    """The champion's weights on a faster backend, for probes and simulated requests that ask for it."""
    depth_rules: Mapping[str, DepthRule] = field(default_factory=dict)
    """By digest: when to stop scoring early. Empty unless the release wants that."""
    previous: Reranker | None = None
    """The champion before this one, warm: it answers pinned probes, and scores a share of the requests in shadow."""
    shadow_error: str | None = None
    """Why the release's ``reranker.shadow`` is not there: no reason to refuse the release."""

    @property
    def candidate_weight(self) -> float:
        """Share that the trial really touches: 0 without a candidate."""
        return self.release.candidate_weight if self.candidate is not None else 0.0

    def assign(self, unit: str) -> VariantName:
        """Who answers this unit. Raising the weight moves only units from champion to candidate (or to shared lists), never the other way round."""
        if self.release.candidate_mode == "shadow" or bucket(unit) >= round(self.candidate_weight * BUCKETS):
            return "champion"
        return "interleaved" if self.release.candidate_mode == "interleave" else "candidate"

    def shadowed(self, query_id: str, *, wanted: bool = False) -> list[Literal["candidate", "previous"]]:
        """Who scores this request in shadow: a share of the requests, drawn by their ids; all of them where that is ``wanted``."""
        place = -1 if wanted else bucket(f"shadow {query_id}")
        found: list[Literal["candidate", "previous"]] = []
        if self.candidate is not None and self.release.candidate_mode == "shadow" and place < round(self.candidate_weight * BUCKETS):
            found.append("candidate")
        if self.previous is not None and place < round(self.release.shadow_share * BUCKETS):
            found.append("previous")
        return found

    @property
    def in_shadow(self) -> list[str]:
        """Digests of the models that the shadow worker needs; empty when nothing is shadowed."""
        tried = self.candidate if self.release.candidate_mode == "shadow" else None
        found = [model.digest for model in (tried, self.previous) if model is not None]
        return [self.champion.digest, *found] if found else []

    def reranker(self, name: str) -> Reranker | None:
        """The model behind a variant, None for one that is not there."""
        return {"champion": self.champion, "candidate": self.candidate, "shadow": self.previous}.get(name)

    def depth_rule(self, name: VariantName, model: Reranker, depth: int, fusion_weight: float) -> DepthRule | None:
        """When ``model`` may stop early; null where no rule was made for it at this depth and weight: then all is scored, which is never wrong."""
        rule = self.depth_rules.get(model.digest) if self.release.stops_early(name) else None
        return rule if rule is not None and rule.fits(model.digest, depth, fusion_weight) else None

    def loaded(self) -> dict[str, Reranker]:
        """The models by digest."""
        return {model.digest: model for model in (self.champion, self.candidate, self.twin, self.previous) if model is not None}


class ReleaseFollower:
    """Keeps ``current`` as the applied release file wants it.

    A change is taken as a whole or not at all: the file must be readable, no model in it denied (by its digest or its source's), each model present,
    loaded, of the digest that was asked for, and able to score a pair. Otherwise the state stays as it is and ``error`` says why. The models are loaded by the
    thread that calls ``poll``; the swap is one assignment.

    Parameters
    ----------
    release_path, deny_path
        The applied files. A deny list that does not exist denies nobody; one that cannot be read stops every change.
    models
        Where models are found by digest.
    load_reranker
        Loads a model folder; the digest of what it returns is computed from the loaded bytes.
    on_change
        Called after each change with the new variants, in the polling thread.
    before_change
        Called with the variants before they serve, by ``settle_in`` and in the polling thread; what it raises refuses the change. It may be called again
        with what it has seen to already.

    Raises
    ------
    PredatorError
        From the constructor: there is nothing to serve with.
    """

    def __init__(
        self,
        release_path: Path,
        deny_path: Path,
        models: Models,
        load_reranker: Callable[[Path], Reranker],
        on_change: Callable[[Variants], None] | None = None,
        before_change: Callable[[Variants], None] | None = None,
    ) -> None:
        self.release_path, self.deny_path = Path(release_path), Path(deny_path)
        self._contour = self.release_path.stem.removeprefix("release-")
        self._models, self._load_reranker, self._on_change, self._before_change = models, load_reranker, on_change, before_change
        self._polling = threading.Lock()
        self.error: str | None = None
        self.errors = 0
        """How many changes were refused so far."""
        self.swaps = 0
        self.loading = False
        self._seen = self._contents()
        self._again = False
        self.current = self._prepared(*self._seen, {})

    def poll(self) -> bool:
        """Look at the files once; True when ``current`` was replaced. Never raises: a refusal is in ``error``."""
        with self._polling:
            contents = None
            try:
                contents = self._contents()
                if contents == self._seen and not self._again:
                    return False
                fresh = contents != self._seen
                self._seen = contents
                variants = self._prepared(*contents, self.current.loaded())
                if self._before_change is not None:
                    self._before_change(variants)
            except Exception as error:  # whatever goes wrong with a new model, the old one goes on serving; the reason is shown, logged and counted
                # A model that is missing may still be on its way, a file that cannot be read may come back: looking again is cheap. A model that is bad
                # stays bad until the files change.
                self._refuse(error, again=contents is None or isinstance(error, Missing))
                return False
            self.error, self._again = None, False
            if not fresh and variants.release == self.current.release:
                return False
            changed = variants.release != self.current.release
            self.current = variants
            if changed:
                self.swaps += 1
                log.info("serving champion %s, candidate %s at %.4f", variants.champion.digest, variants.release.candidate, variants.candidate_weight)
                if self._on_change is not None:
                    self._on_change(variants)
            return changed

    def settle_in(self) -> None:
        """See to what must stand before the first release serves; where that fails the service goes on with what it has, and ``error`` says why."""
        try:
            if self._before_change is not None:
                self._before_change(self.current)
        except Exception as error:  # as in ``poll``
            self._refuse(error, again=isinstance(error, Missing))

    def _refuse(self, error: Exception, *, again: bool) -> None:
        message = str(error) if isinstance(error, PredatorError) else f"{type(error).__name__}: {error}"
        if message != self.error:
            self.errors += 1
            log.error("the release was not applied: %s", message)
        self.error, self._again = message, again

    def _contents(self) -> tuple[bytes, bytes | None]:
        return read_bytes(self.release_path), read_bytes(self.deny_path) if self.deny_path.exists() else None

    def _prepared(self, release_bytes: bytes, deny_bytes: bytes | None, loaded: dict[str, Reranker]) -> Variants:
        release = parse_release(release_bytes, self.release_path.name)
        denied = _EMPTY_DENY_LIST if deny_bytes is None else parse_denied(deny_bytes, self.deny_path.name, self._contour)
        twin = self._models.twin(release.champion)
        cards = {digest: self._card(digest, denied) for digest in (release.champion, release.candidate, twin) if digest is not None}
        champion_card = cards[release.champion]
        if release.backend not in ("auto", champion_card.backend):
            raise BadInput(
                f"{self.release_path.name}: reranker.backend is {release.backend}, but the champion {release.champion} was made for {champion_card.backend}. "
                "Use auto, or release the model that was exported for that backend."
            )
        self.loading = True
        try:
            models = {digest: loaded.get(digest) or self._load(digest) for digest in cards}
        finally:
            self.loading = False
        candidate = models[release.candidate] if release.candidate is not None else None
        previous, shadow_error = self._shadow(release, denied, {**loaded, **models})
        wants_rules = release.early_exit or release.candidate_early_exit or release.shadow_early_exit
        digests = [*cards, *([previous.digest] if previous is not None else [])] if wants_rules else []
        rules = {digest: kept_rule(self._models.path(digest)) for digest in digests}
        known = {digest: rule for digest, rule in rules.items() if rule is not None}
        twin_model = models[twin] if twin is not None else None
        return Variants(release, models[release.champion], candidate, twin_model, known, previous, shadow_error)

    def _shadow(self, release: Release, denied: DenyList, loaded: Mapping[str, Reranker]) -> tuple[Reranker | None, str | None]:
        """The previous champion, or why it is not there: it answers nobody, so a release is not refused for it."""
        if release.shadow is None:
            return None, None
        try:
            self._card(release.shadow, denied)
            return loaded.get(release.shadow) or self._load(release.shadow), None
        except Exception as error:  # whatever is wrong with it is shown, and the champion serves
            log.error("the model in shadow is not there: %s", error if isinstance(error, PredatorError) else type(error).__name__)
            return None, str(error) if isinstance(error, PredatorError) else f"{type(error).__name__}: {error}"

    def _card(self, digest: str, denied: DenyList) -> ModelCard:
        by_name = denied.reason_against(digest, None)  # before the store is asked: a denied model may be gone already
        if by_name is None:
            card = self._models.card(digest)
            by_name = denied.reason_against(digest, card.source_digest)
            if by_name is None:
                return card
        raise Refused(f"{self.release_path.name}: model {digest} is refused: {by_name}. Release another model.")

    def _load(self, digest: str) -> Reranker:
        folder = self._models.path(digest)
        try:
            reranker = self._load_reranker(folder)
        except PredatorError:
            raise
        except Exception as error:
            raise BadInput(f"model {digest} cannot be loaded ({type(error).__name__}: {error}). Its folder is damaged: fetch or train it again.") from error
        if reranker.digest != digest:
            raise BadInput(
                f"model folder {folder.name} holds {reranker.digest}, but {digest} was asked for. The weights were changed: fetch or train the model again."
            )
        # One pair now, so that neither the first user pays for the warm-up nor a model that cannot score at all is swapped in.
        try:
            first = float(reranker.score("warm up", ["one document"])[0])
        except Exception as error:
            raise BadInput(f"model {digest} loads but cannot score ({type(error).__name__}: {error}). It is not served; train or export it again.") from error
        if not math.isfinite(first):
            raise BadInput(f"model {digest} scores {first}. It is not served; train or export it again.")
        return reranker
