"""Queries are personal data: what is taken out of them, how the rest is sealed, and how it is destroyed.

A leaf: it knows records and errors, nobody else. It must not know where events come from, the ledger, or any stage.

Public functions
----------------
- ``redact``, ``redact_column``: a text, or a Polars column, without e-mail addresses, phone numbers, accounts, cards, long numbers
- ``Vault``: ``client_hash``, ``session_hash``, ``seal``, ``open``, ``sync``, ``destroy``, ``expire``, ``reapply``
- ``protect``: a frame of events as it may be stored; ``open_text``: the same frame readable again, where the keys still exist
- ``is_sealed``: whether a stored text is a token; ``trace``: an error for a log, without its message
- ``TOKEN``, ``CLIENT``: patterns of what stands in a store instead of a query and of a client
"""

from predator_si.privacy.frames import open_text, protect
from predator_si.privacy.redaction import redact, redact_column, trace
from predator_si.privacy.vault import CLIENT, TOKEN, Tombstone, Vault, is_sealed

__all__ = ["CLIENT", "TOKEN", "Tombstone", "Vault", "is_sealed", "open_text", "protect", "redact", "redact_column", "trace"]
