"""`predator-si`: the command line, a thin face over the stages.

What belongs here: reading options, calling one function, printing its answer. What must not: any decision of the loop. Everything heavy is
imported inside the commands, so that `--help` answers at once.

Public: ``main``. Exit codes: 0 yes or done, 1 the answer is "no", 2 wrong use or bad input, 70 a defect of this program.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

__all__ = ["main"]

EXIT_BAD_INPUT = 2
EXIT_DEFECT = 70  # EX_SOFTWARE of sysexits.h: neither "no" nor "wrong use"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    from predator_si.quiet import be_quiet, hush

    be_quiet()
    if arguments is None and "--debug" not in sys.argv:  # a process of its own, not a test
        hush()
    from predator_si.cli.choices import hoisted
    from predator_si.cli.commands import app
    from predator_si.errors import PredatorError

    words = hoisted(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app(words, prog_name="predator-si")
    except PredatorError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_BAD_INPUT)
    except BrokenPipeError:
        # The reader left (`| head`): nobody to tell, and Python would complain once more while closing the stream.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.write(f"error: a defect of predator-si ({type(error).__name__}); the lines above say where.\n")
        sys.exit(EXIT_DEFECT)
