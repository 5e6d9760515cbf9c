"""From a proven challenger to a served model and, when need be, back.

What belongs here: the decision for a stage and its recomputation from evidence, the patch of the machine-owned release file and its
reverse, the GitOps repository, the local reconciler, the confirmation that the service serves what was committed, the watch and the
rollback. What must not: training or measuring anything, moving cycles (control), reading settings, Dagster; a change of any file that the
loop does not own.

Public functions, each in the module named by what it holds:

- ``decide``: ``PROMOTION_CRITERIA``, ``REJECTION_CRITERIA``, ``decide_trial``, ``decide_promote``, ``approve``; ``recompute``:
  ``collect_evidence``, ``recompute_decision``; ``latency``: ``summarise_latency``
- ``release_file``: ``ReleaseFile``, ``parse_release``, ``seed_release``, ``release_name``; ``deny``: ``DenyEntry``, ``parse_deny``, ``SEED_DENY``,
  ``deny_entries``, ``add_denied``, ``find_denied``, ``is_denied``, ``check_allowed``
- ``patch``: ``trial_changes``, ``step_changes``, ``promote_changes``, ``shadow_changes``, ``end_shadow_changes``,
  ``make_patch``, ``apply_patch``, ``make_rollback``, ``save_patch``, ``load_patch``
- ``gitops``: ``GitOpsRepo``; ``deploy``: ``commit_patch``, ``confirm``; ``reconcile``: ``LocalReconciler``, and the process
  ``python -m predator_si.release.reconcile``
- ``helm``: ``find_helm``, ``fetch_helm``, ``render``, ``lint``
- ``watch``: ``WatchPlan``, ``WatchCheck``, ``judge_watch``; ``rollback``: ``rollback``

Nothing is imported here, so that the reconciler process stays small.
"""
