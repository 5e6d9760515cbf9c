"""Language models behind any OpenAI-compatible ``/v1/chat/completions``: asked within a budget, answered from a cache, never believed by themselves.

A leaf: it knows privacy and errors, nobody else. What belongs here: how a model is asked, what that costs, what is kept of an answer. What must not: what is
asked and what an answer means (``monitor.judgments.llm_judge`` grades documents, ``augment.generators.llm`` writes queries).

- ``Endpoint``: where a model is and what its tokens cost; ``Budget``: what a cycle may spend
- ``Conversation``: asks, pays, remembers; ``Question``, ``Reply``: one of several asked together, and what came of it
- ``AnswerStore``: the SQLite file of answers by hash and of what each cycle spent
- ``fenced``: strangers' text between marks that they cannot know; ``digest``: the key of a question; ``one_object``: the JSON object that an answer is
"""

from predator_si.language_model.answers import AnswerStore
from predator_si.language_model.conversation import Budget, Conversation, Question, Reply
from predator_si.language_model.endpoint import Completion, Endpoint
from predator_si.language_model.text import digest, fenced, one_object

__all__ = ["AnswerStore", "Budget", "Completion", "Conversation", "Endpoint", "Question", "Reply", "digest", "fenced", "one_object"]
