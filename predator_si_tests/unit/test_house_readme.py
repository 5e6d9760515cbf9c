"""README keeps its word: files that it names exist, commands that it shows are understood, every command is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from predator_si.cli.commands import app
from predator_si_tests.unit.test_cli import commands

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"`((?:predator_si|predator_si_tests|deploy|docs)/[\w./-]*)`|\]\(((?!https?:)[\w./-]+)\)", TEXT))
    paths = {one or other for one, other in named}
    assert len(paths) > 15
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_command_is_in_it():
    assert not [" ".join(words) for words in commands() if f"predator-si {' '.join(words)}" not in TEXT]


def test_every_command_that_it_shows_exists():
    known = {" ".join(words) for words in commands()}
    shown = set(re.findall(r"predator-si ([a-z]+(?: [a-z]+(?:-[a-z]+)*)?)", TEXT))
    assert not [words for words in shown if words not in known and words.split()[0] not in known]


def test_every_make_target_that_it_shows_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    shown = set(re.findall(r"(?:`|^)make ([a-z]+)\b(?!-)", TEXT, re.MULTILINE))
    assert shown and shown <= targets


def test_every_option_in_a_shown_command_is_known():
    root = typer.main.get_command(app)
    for line in re.findall(r"^predator-si (.+)$", TEXT, re.MULTILINE):
        words = line.split("#")[0].split()
        command = root
        while words and words[0] in getattr(command, "commands", ()):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("word", ["—", "–"])
def test_no_dash_clutter(word: str):
    assert word not in TEXT
