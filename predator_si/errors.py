"""The one error hierarchy: every message says what was wrong, where, and what to do next."""


class PredatorError(Exception):
    """Root of everything this project raises on purpose; the command line prints it and exits with 2."""


class BadInput(PredatorError):
    """A file, setting or request that cannot be used; the message names it (file and line where there is one)."""


class Missing(PredatorError):
    """Something that must exist does not (a model, a corpus, an artifact); the message says how to get it."""


class Refused(PredatorError):
    """A rule forbids this: a gate, a policy, the kill switch, the deny list, a lease held by somebody else."""


class Unavailable(PredatorError):
    """An outside part does not answer: a busy port, an unreachable service, a repository that rejects pushes."""
