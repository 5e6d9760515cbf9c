"""The control database: cycles, leases, flags, policy, ledger. State and permission, nothing else.

It must not know stages, models, metrics or Dagster: it answers who may do what, and remembers what was done.

Public functions
----------------
- ``Control(url_or_path)``: ``open_cycle``, ``cycle``, ``cycles``, ``active_cycle``, ``current_release``, ``transition``;
  ``acquire``, ``renew``, ``release``, ``check`` (leases with a fencing token); ``kill_switch``, ``set_kill_switch``; ``get_note``,
  ``set_note``; ``open_sealed``, ``sealed_opening``, ``sealed_openings``; ``append``, ``records``, ``head``, ``verify`` (the hash-chained ledger)
  ``ask_approval``, ``approval``, ``approvals``, ``decide_approval``, ``close_approval``; ``override_gate``, ``end_override``, ``gate_overrides``,
  ``overrides_of_cycle``; ``champion_changed``, ``champions``, ``restore_champions``; ``set_feature_flag``, ``feature_flags``
- ``Lease``: a held lock with its fencing token
- ``is_legal``, ``ACTIVE``, ``ENDED``: the state machine of a cycle
- ``may_start_cycle`` -> ``Allowed`` or ``Refusal``: the policy, a pure function
- ``ledger_hash``, ``chain_problems``: the chain, as pure functions
"""

from predator_si.control.database import Control
from predator_si.control.leases import Lease
from predator_si.control.ledger import chain_problems, ledger_hash
from predator_si.control.policy import Allowed, Refusal, may_start_cycle
from predator_si.control.states import ACTIVE, ENDED, is_legal

__all__ = ["ACTIVE", "ENDED", "Allowed", "Control", "Lease", "Refusal", "chain_problems", "is_legal", "ledger_hash", "may_start_cycle"]
