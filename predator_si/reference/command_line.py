"""Every command with its arguments, options, defaults and example, from the parser itself.

What belongs here: reading typer's commands. What must not: a word about a command that its ``--help`` does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from predator_si.reference.markdown import prose, table


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Words and parser of every command that people see, groups opened."""
    import typer

    from predator_si.cli.commands import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        below = getattr(command, "commands", None) or {}
        if words and (not below or getattr(command, "invoke_without_command", False)):
            yield words, command
        for name in sorted(below):
            if not below[name].hidden:
                yield from walk(below[name], (*words, name))

    yield from walk(typer.main.get_command(app), ())


def command_page() -> str:
    """`reference/commands.md`."""
    import typer

    from predator_si.cli.commands import app

    parts = [
        "# Command line\n",
        'Exit codes: 0 yes or done, 1 the answer is "no", 2 wrong use or bad input (one line on standard error; `--debug` shows the traceback).\n',
        "## Everywhere\n",
        _options(typer.main.get_command(app)),
    ]
    for words, command in commands():
        usage = " ".join(("predator-si", *words, *(_argument(one) for one in command.params if one.param_type_name == "argument")))
        parts += [f"## {' '.join(words)}\n", prose(command.help) + "\n", f"```text\n{usage}{' [options]' if command.params else ''}\n```\n", _options(command)]
    return "\n".join(parts)


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name).strip("[]").rstrip(".").upper()
    return (name if parameter.required else f"[{name}]") + ("..." if parameter.nargs == -1 else "")


def _options(command: Any) -> str:
    rows = []
    for one in command.params:
        if getattr(one, "hidden", False) or one.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts)) if one.param_type_name == "option" else f"`{_argument(one)}`"
        said = isinstance(one.default, (str, int, float, Path)) and one.default is not False
        default = f"`{one.default}`" if said else ""
        rows.append((names, default, getattr(one, "help", None) or ""))
    return table(("option", "default", "meaning"), rows) if rows else ""
