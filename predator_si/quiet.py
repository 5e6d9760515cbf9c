"""Nothing here reports home: the environment switches that silence every library's telemetry, in one place.

The switches were read from the installed sources of the libraries. What belongs here: names and values of environment variables. What
must not: any import of the libraries themselves, since most of them read their switch while being imported.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

TELEMETRY_OFF: dict[str, str] = {
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "DO_NOT_TRACK": "1",  # dbt, evidently and others that follow consoledonottrack.com
    "ITERATIVE_DO_NOT_TRACK": "1",  # the library that evidently and DVC share
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",  # NNCF reports home through openvino-telemetry unless this is set; it has no other effect
}

OFFLINE: dict[str, str] = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


_CHATTER = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"}


def hush() -> None:
    """Keep what libraries say to their developers (deprecations, tracing notes, progress of loading) off a user's terminal. Errors stay."""
    import logging
    import warnings

    for name, value in _CHATTER.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    errors = logging.StreamHandler()
    errors.setLevel(logging.ERROR)
    logging.basicConfig(
        level=logging.ERROR, handlers=[errors], format="%(message)s"
    )  # else the first library that calls logging.info() gives the root one for every level


def quiet_environment(*, offline: bool = False) -> dict[str, str]:
    """Environment variables that switch telemetry off.

    Parameters
    ----------
    offline
        Also forbid the Hugging Face libraries any download: for tests, and for every process but ``models fetch``.

    Returns
    -------
    dict[str, str]
        A fresh dictionary, to be merged into the environment of this process or of a child.
    """
    return {**TELEMETRY_OFF, **(OFFLINE if offline else {}), "TOKENIZERS_PARALLELISM": "false"}


def be_quiet(environment: MutableMapping[str, str] | None = None, *, offline: bool = False) -> None:
    """Apply :func:`quiet_environment` to ``environment`` (default: this process'); a switch that somebody has set already stays."""
    target = os.environ if environment is None else environment
    for name, value in quiet_environment(offline=offline).items():
        target.setdefault(name, value)
