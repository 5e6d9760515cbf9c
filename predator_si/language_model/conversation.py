"""Asking one model within a budget: from the cache where it can, within what is left where it must, and every call paid for in the books.

What belongs here: cache, budget, attempts. What must not: prompts, and what an answer means.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from predator_si.errors import Unavailable
from predator_si.language_model.answers import AnswerStore
from predator_si.language_model.endpoint import Completion, Endpoint, Failure, call

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class Budget:
    """What a cycle may spend; calls stop before either is passed."""

    usd: float
    tokens: int


@dataclass(frozen=True)
class Question:
    """What :meth:`Conversation.ask` takes: key, messages, and what to keep of a completion."""

    key: str
    messages: Sequence[dict[str, str]]
    read: Callable[[Completion], str | None]


@dataclass(frozen=True)
class Reply:
    """What came of one question.

    ``kept`` is what the reader kept of the answer, null where there is none: the answer was ``malformed``, the question was ``missing`` from the cache of a
    replay, or it was ``left`` because the budget (or the round) was spent.
    """

    kept: str | None
    origin: Literal["cache", "model", "malformed", "missing", "left"]


class Conversation:
    """Asks one model; a context manager.

    Parameters
    ----------
    endpoint
        The model.
    cache
        File of the :class:`AnswerStore`. Conversations over one file share the budget of a cycle.
    cycle, budget
        Who pays: what was spent under the same name before counts.
    replay
        Only the cache answers: nothing leaves the machine, no key is needed, and what is missing is counted.
    most
        Questions asked of the model at most; the rest is left.
    sleep
        Waits between attempts; a test passes its own.

    Raises
    ------
    Missing
        The key's environment variable is not set.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: Path,
        cycle: str,
        budget: Budget,
        *,
        replay: bool = False,
        most: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.endpoint, self.cycle, self.budget, self.replay, self.most = endpoint, cycle, budget, replay, most
        self.counts = {"asked": 0, "from_cache": 0, "malformed": 0, "missing": 0, "left": 0}
        self.usd, self.tokens = 0.0, 0
        self.estimated = False
        """Whether some call did not say its tokens, or was lost on the way, and was charged by estimate."""
        self.reason: str | None = None
        """Why no more is asked; null while more may be."""
        self._sleep, self._cache, self._spelling = sleep, cache, dict[str, str]()
        self._lock = threading.RLock()
        self._reserved = (0.0, 0)
        """USD and tokens that calls on their way may take, by estimate."""
        self._headers = {} if replay else endpoint.headers()
        self._client: httpx.Client | None = None

    def __enter__(self) -> Self:
        import httpx

        with ExitStack() as opened:
            self._store = opened.enter_context(AnswerStore(self._cache))
            if not self.replay:
                self._client = opened.enter_context(httpx.Client(timeout=self.endpoint.timeout_seconds, headers=self._headers))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    def ask(self, key: str, messages: Sequence[dict[str, str]], read: Callable[[Completion], str | None]) -> Reply:
        """The kept answer to a question.

        Parameters
        ----------
        key
            Of the question (see ``digest``): whatever changes the answer must be in it.
        read
            What to keep of a completion, null where it is not what was asked for. Nothing else of it is stored.

        Raises
        ------
        Unavailable
            The endpoint refuses the key or the request, or does not answer after all attempts. What was lost on the way is charged by estimate.
        """
        with self._lock:
            known = self._store.known(key)
            if known is not None:
                return self._reply("from_cache", "cache", known)
            if self.replay:
                return self._reply("missing", "missing")
            if self.reason is None and self.most is not None and self.counts["asked"] >= self.most:
                self.reason = f"{self.most} questions were asked, the rest waits for the next round"
            if self.reason is not None or not self._affords(messages):
                return self._reply("left", "left")
            self._reserve(messages, 1)
        try:
            completion = self._completion(messages)
        finally:
            with self._lock:
                self._reserve(messages, -1)
        with self._lock:
            if completion is None:
                return self._reply("left", "left")
            usage, kept = completion.usage(messages), read(completion)
            self._charge(messages, usage, key, kept)  # what was paid for is remembered before anything else can fail
            self.counts["asked"] += 1
            return self._reply("malformed", "malformed") if kept is None else Reply(kept, "model")

    def ask_many(self, questions: Sequence[Question], at_once: int) -> list[Reply]:
        """The replies to several questions, in their order, up to ``at_once`` of them on their way together.

        The budget holds as for one at a time: calls on their way count with their estimate. An endpoint that fails leaves the rest (``reason`` says why);
        what was answered is kept.
        """

        def asked(question: Question) -> Reply:
            try:
                return self.ask(question.key, question.messages, question.read)
            except Unavailable as error:
                with self._lock:
                    self.reason = self.reason or str(error)
                    return self._reply("left", "left")

        if at_once == 1 or len(questions) < 2:
            return [asked(question) for question in questions]
        with ThreadPoolExecutor(at_once, "language-model") as pool:
            return list(pool.map(asked, questions))

    def _reply(self, count: str, origin: Literal["cache", "malformed", "missing", "left"], kept: str | None = None) -> Reply:
        self.counts[count] += 1
        return Reply(kept, origin)

    def _affords(self, messages: Sequence[dict[str, str]]) -> bool:
        """Whether one more call stays within the budget even at its estimate; where not, the reason is written down."""
        estimate = self.endpoint.estimate(messages)
        tokens, usd = sum(estimate), self.endpoint.price(*estimate)
        spent_usd, spent_tokens = self._store.spent(self.cycle)
        if spent_tokens + self._reserved[1] + tokens <= self.budget.tokens and spent_usd + self._reserved[0] + usd <= self.budget.usd:
            return True
        self.reason = (
            f"budget of {self.cycle} spent: {spent_usd:.4f} of {self.budget.usd:g} USD and {spent_tokens} of {self.budget.tokens} tokens, "
            f"the next call may take {usd:.4f} USD and {tokens} tokens"
        )
        return False

    def _reserve(self, messages: Sequence[dict[str, str]], sign: int) -> None:
        estimate = self.endpoint.estimate(messages)
        self._reserved = (max(0.0, self._reserved[0] + sign * self.endpoint.price(*estimate)), self._reserved[1] + sign * sum(estimate))

    def _charge(self, messages: Sequence[dict[str, str]], usage: tuple[int, int] | None, key: str | None = None, kept: str | None = None) -> None:
        used = usage or self.endpoint.estimate(messages)
        cost = self.endpoint.price(*used)
        self._store.pay(self.cycle, cost, sum(used), key, kept)
        self.usd, self.tokens, self.estimated = self.usd + cost, self.tokens + sum(used), self.estimated or usage is None

    def _completion(self, messages: Sequence[dict[str, str]]) -> Completion | None:
        """The answer of one of the attempts; null where lost attempts used up the budget."""
        assert self._client is not None
        problem = ""
        for attempt in range(self.endpoint.attempts):
            found = call(self._client, self.endpoint, messages, self._spelling)
            if isinstance(found, Completion):
                return found
            problem = found.problem
            with self._lock:
                if found.may_be_charged:
                    self._charge(messages, None)
                last = attempt + 1 == self.endpoint.attempts
                self._reserve(messages, -1)  # this very call is no longer on its way
                spent = found.may_be_charged and not last and not self._affords(messages)
                self._reserve(messages, 1)
            if spent:
                return None
            if not last:
                self._wait(found, attempt)
        raise Unavailable(
            f"{self.endpoint.url} does not answer after {self.endpoint.attempts} attempts ({problem}); earlier answers are in the cache, try again later."
        )

    def _wait(self, failure: Failure, attempt: int) -> None:
        seconds = 2.0**attempt if failure.wait is None else failure.wait
        if seconds > 0:
            self._sleep(seconds)
