"""A process of the platform that ends itself with SIGKILL at a write of its own, where a drill planned so (``effects.doom``).

What belongs here: wrapping what it writes, and becoming it. What must not: anything of its own that it does.

    python -m predator_si.proof.drill.marked PAPER HOME MODULE [WORDS...]

PAPER names the moment, if there is one; HOME is the drill's. MODULE then runs as ``python -m MODULE WORDS`` would.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from predator_si.proof.drill import effects

LOADED = "model loaded"
"""What the search service does instead of writing: the moment at which it takes another model."""


def marked(command: Sequence[str], paper: Path, home: Path) -> list[str]:
    """A command ``[python, "-m", module, ...]`` as a process that can be ended at its own writes."""
    python, flag, *words = command
    return [python, flag, "predator_si.proof.drill.marked", str(paper), str(home), *words]


def main(words: Sequence[str]) -> None:
    """Become the module that is named."""
    from predator_si.search import rerank

    paper, home, module, *rest = words
    tell = effects.doomed(Path(paper))
    effects.install_writes(tell, Path(home))
    load = rerank.load_reranker

    def told(*given: object, **named: object) -> object:
        tell(f"before {LOADED}")
        found = load(*given, **named)  # type: ignore[arg-type]
        tell(f"after {LOADED}")
        return found

    rerank.load_reranker = told  # type: ignore[assignment]
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
