"""The embedded corpus from packages written for the test: what is a document, what is a query, and that nothing leaks."""

from __future__ import annotations

import random
import textwrap
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.corpora import build_python_docs, load_corpus, python_docs
from predator_si.corpora.docstrings import docstrings, package_version, source_files
from predator_si.corpora.python_docs import says, split_docstring
from predator_si.corpora.text import near_duplicates_across
from predator_si.errors import BadInput, Missing

LONG = (
    "This paragraph explains at some length what happens, which arguments are taken, what comes back, "
    "and which errors are raised when the input cannot be used at all."
)
VOCABULARY = [
    f"{stem}{ending}"
    for stem in ("sort", "parse", "join", "plot", "cache", "merge", "train", "index", "group", "split")
    for ending in ("er", "ing", "ed", "able")
]


def write(root: Path, package: str, files: dict[str, str], version: str | None = "1.0") -> None:
    for name, text in files.items():
        path = root / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    if version:
        info = root / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def function(name: str, docstring: str) -> str:
    return f"def {name}():\n    {docstring!r}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


# --------------------------------------------------------------------------- reading


def test_docstrings_of_public_things_without_importing(site: Path):
    write(
        site,
        "shelf_a",
        {
            "__init__.py": '"""The package."""\nraise SystemExit("imported")\n',
            "good.py": '''
                """The module."""
                import sys
                def loud():
                    """Loud."""
                def _quiet():
                    """Quiet."""
                class Thing:
                    """Thing."""
                    def method(self):
                        """
                        Method.
                            Indented.
                        """
                    async def waits(self):
                        """Waits."""
                    def _hidden(self):
                        """Hidden."""
                if sys.version_info > (3,):
                    def conditional():
                        """Conditional."""
                try:
                    def tried():
                        """Tried."""
                except ImportError:
                    pass
                def silent():
                    pass
            ''',
            "tests/test_x.py": '"""Test."""\n',
            "test_y.py": '"""Test."""\n',
            "_private/inside.py": '"""Private."""\n',
            "_vendor/other.py": '"""Vendored."""\n',
            "future.py": "match = !!\n",
            "nul.py": "x = 1\0\n",
        },
    )
    assert dict(docstrings("shelf_a")) == {
        "shelf_a": "The package.",
        "shelf_a.good": "The module.",
        "shelf_a.good.loud": "Loud.",
        "shelf_a.good.Thing": "Thing.",
        "shelf_a.good.Thing.method": "Method.\n    Indented.",
        "shelf_a.good.Thing.waits": "Waits.",
        "shelf_a.good.conditional": "Conditional.",
        "shelf_a.good.tried": "Tried.",
    }


def test_docstrings_added_to_c_functions(site: Path):
    write(
        site,
        "shelf_b",
        {
            "__init__.py": "",
            "_core/_docs.py": '''
                add_docstr(shelf.abs, r"""Absolute value.""" + common)
                add_newdoc("shelf_b._core.multi", "array", """Make an array.""")
                add_newdoc("shelf_b._core.multi", "array_like", """Make another array.""")
                add_newdoc("shelf_b._core.multi", "ndarray", ("sort", """Sort in place."""))
                add_newdoc(broken)
                unrelated("shelf_b", "no", "Not this one.")
            ''',
        },
    )
    assert dict(docstrings("shelf_b")) == {
        "shelf.abs": "Absolute value.",
        "shelf_b.multi.array": "Make an array.",
        "shelf_b.multi.array_like": "Make another array.",
        "shelf_b.multi.ndarray.sort": "Sort in place.",
    }


def test_source_files_are_sorted_and_named(site: Path):
    write(site, "shelf_c", {"__init__.py": "", "b.py": "", "a/__init__.py": "", "a/c.py": "", "site-packages/x.py": "", "examples/y.py": ""})
    assert [name for name, _ in source_files("shelf_c")] == ["shelf_c", "shelf_c.a", "shelf_c.a.c", "shelf_c.b"]


def test_a_package_that_is_not_installed(site: Path, tmp_path: Path):
    for ask in (source_files, package_version):
        with pytest.raises(Missing, match="nobody_made_this"):
            ask("nobody_made_this")
    with pytest.raises(Missing, match="nobody_made_this"):
        build_python_docs(tmp_path / "cache", base=("nobody_made_this",), shift=())
    assert package_version("yaml") == package_version("PyYAML"), "an import name is not always the distribution's"
    assert package_version("stdlib").count(".") == 2


# --------------------------------------------------------------------------- summary and body


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        (f"Return the sorted copy of a table. {LONG}", "Return the sorted copy of a table"),
        (f"Return the sorted\n    copy of a table.\n\n{LONG}", "Return the sorted copy of a table"),
        (f"Return the ``sorted`` *copy* of :class:`~shelf.Table` objects:\n\n{LONG}", "Return the sorted copy of shelf.Table objects"),
        (f"Is this one sorted already? {LONG}", "Is this one sorted already?"),
    ],
)
def test_the_summary_is_the_first_sentence(docstring: str, summary: str):
    halves = split_docstring(docstring)
    assert halves is not None
    assert halves[0] == summary
    assert LONG[:40] in halves[1]


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        f"Too short summary. {LONG}",
        "Return the sorted copy of a table. Body of too few words.",
        " ".join(["word"] * 31) + f". {LONG}",
        f"Return the sorted = copy of a table. {LONG}",
        f"name: the sorted copy of a table. {LONG}",
        f">>> return the sorted copy of table. {LONG}",
        f"x : int, optional and more words here. {LONG}",
        f"This function is deprecated since some release. {LONG}",
    ],
)
def test_what_cannot_be_a_query_is_left_out(docstring: str):
    assert split_docstring(docstring) is None


@pytest.mark.parametrize(
    "again",
    [
        "Return the sorted copy of a table",
        "return the\n   SORTED copy of a table!",
        "Return the ``sorted`` copy of *a* table",
        "Return, the sorted: copy of a table",
    ],
)
def test_a_repeated_summary_is_cut_out_of_the_body(again: str):
    halves = split_docstring(f"Return the sorted copy of a table.\n\n{LONG} {again}. And it goes on.")
    assert halves is not None
    assert not says(halves[1], halves[0])
    assert "And it goes on" in halves[1]


def test_a_body_that_is_only_the_summary_again_is_no_document():
    assert split_docstring("Return the sorted copy of a table.\n\n" + "Return the sorted copy of a table. " * 8) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["alpha", "beta", "Gamma", "straße", "`delta`", "*eps*", "zeta,", "eta\n", "theta-iota"]), min_size=5, max_size=9),
    st.integers(0, 2**32),
)
def test_no_summary_stands_in_its_own_body(summary: list[str], seed: int):
    rng = random.Random(seed)
    body = LONG.split()
    for _ in range(3):
        at = rng.randrange(len(body))
        body[at:at] = [rng.choice([str.upper, str.lower, str.title])(word) for word in summary]
    halves = split_docstring(" ".join(summary) + ".\n\n" + " ".join(body))
    assert halves is None or not says(halves[1], halves[0])


# --------------------------------------------------------------------------- building


def library(site: Path, n: int = 60) -> None:
    rng = random.Random(4)
    for package in ("shelf_base", "shelf_shift"):
        parts = []
        for number in range(n):
            summary = " ".join(rng.sample(VOCABULARY, 8)) if number else "The very same summary of both packages"
            body = LONG + f" Note {package} {number}: " + " ".join(rng.sample(VOCABULARY, 6))
            parts.append(function(f"f{number}", f"{summary}.\n\n{body}"))
        # near-duplicates in words, far apart in the file, in another order and with one word more
        parts.append(function("twin_one", f"Compute the weighted mean of all the values along an axis quickly here.\n\n{LONG} one {package}"))
        parts.append(function("twin_two", f"Along an axis, compute the weighted mean of all values here quickly.\n\n{LONG} two {package}"))
        # one summary for four documents is too vague to judge by
        parts += [function(f"vague{number}", f"Do the thing that it always does.\n\n{LONG} vague {package} {number}") for number in range(4)]
        # the same body again is one document
        parts += [function(f"copy{number}", f"Copy number {number} of this body text here.\n\n{LONG} identical {package}") for number in range(2)]
        write(site, package, {"__init__.py": "", "a.py": "\n".join(parts)})


def build(cache: Path, **options: object) -> python_docs.Corpus:
    return build_python_docs(cache, base=("shelf_base",), shift=("shelf_shift",), **options)  # type: ignore[arg-type]


def test_two_builds_are_one_corpus_and_the_second_call_reads_the_first(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library(site)
    seen: list[tuple[int, int]] = []
    one = build(tmp_path / "one", on_progress=lambda done, total: seen.append((done, total)))
    two = build(tmp_path / "two")
    assert seen == [(1, 2), (2, 2)]
    assert one.manifest["sha256"] == two.manifest["sha256"]
    assert one.manifest["files"] == two.manifest["files"]
    assert one.manifest["versions"] == {"shelf_base": "1.0", "shelf_shift": "1.0"}

    def never(package: str) -> None:
        raise AssertionError(f"{package} was read again")

    monkeypatch.setattr(python_docs, "docstrings", never)
    assert build(tmp_path / "one").manifest == one.manifest
    with pytest.raises(AssertionError, match="read again"):
        build(tmp_path / "one", limit_per_package=10)


def test_another_version_of_a_package_is_another_corpus(site: Path, tmp_path: Path):
    library(site)
    one = build(tmp_path)
    (site / "shelf_base-1.0.dist-info").rename(site / "shelf_base-2.0.dist-info")
    metadata = site / "shelf_base-2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "2.0"))
    assert build(tmp_path).folder != one.folder


def test_documents_queries_and_judgments(site: Path, tmp_path: Path):
    library(site)
    corpus = build(tmp_path)
    documents, queries, judgments = corpus.documents(), corpus.queries(), corpus.judgments()
    assert documents.columns == ["doc_id", "title", "text", "part", "package"]
    assert documents["doc_id"].n_unique() == documents.height == 2 * (60 + 2 + 4 + 1)
    assert set(corpus.documents("shift")["package"]) == {"shelf_shift"}
    assert set(judgments["doc_id"]) <= set(documents["doc_id"])
    assert set(judgments["query_id"]) == set(queries["query_id"])
    assert "Do the thing that it always does" not in queries["text"].to_list()
    same = queries.filter(pl.col("text") == "The very same summary of both packages")
    assert same["part"].to_list() == ["base", "shift"]
    assert same["split"].n_unique() == 1, "the same question in both parts is in one split"
    counts = corpus.manifest["counts"]
    assert counts["documents_by_part"] == {"base": 67, "shift": 67}
    assert sum(counts["queries_by_part_and_split"].values()) == queries.height
    for split in ("train", "dev", "test"):
        assert corpus.judgments(split)["query_id"].n_unique() == corpus.queries(split).height
        assert corpus.judgments(split, "base").height + corpus.judgments(split, "shift").height == corpus.judgments(split).height
    shares = dict(queries.group_by("split").len().iter_rows())
    assert shares["train"] > shares["dev"] < shares["test"]


def test_no_split_knows_another(site: Path, tmp_path: Path):
    library(site)
    corpus = build(tmp_path)
    queries = corpus.queries()
    twins = queries.filter(pl.col("query_id").str.contains("twin"))
    assert twins.height == 4
    assert twins["split"].n_unique() == 1
    assert near_duplicates_across(queries["text"].to_list(), queries["split"].to_list()) == []
    text_of = dict(corpus.documents().select("doc_id", "text").iter_rows())
    joined = corpus.judgments().join(queries, on="query_id")
    assert not any(says(text_of[doc_id], text) for doc_id, text in joined.select("doc_id", "text").iter_rows())
    checks = corpus.manifest["leakage_check"]
    assert checks["near_duplicates_across_splits"] == checks["documents_across_splits"] == checks["summaries_in_their_documents"] == 0
    assert checks["vague_summaries_left_out"] == 2


def test_the_leakage_check_sees_leaks(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With a splitter that keeps nothing together the planted pairs are counted: the zeros of other builds mean something."""
    library(site)
    monkeypatch.setattr(python_docs, "near_duplicate_groups", lambda texts: list(range(len(texts))))
    fractions = iter(range(10**6))
    monkeypatch.setattr(python_docs, "stable_fraction", lambda key: (next(fractions) % 2) * 0.9)
    queries = build(tmp_path).queries()
    leaked = near_duplicates_across(queries["text"].to_list(), queries["split"].to_list())
    assert len(leaked) > 0
    checks = build(tmp_path).manifest["leakage_check"]
    assert checks["near_duplicates_across_splits"] == len(leaked)
    monkeypatch.setattr(python_docs, "split_docstring", lambda text: ("Do the one thing all documents do", "Do the one thing all documents do " + text))
    assert build(tmp_path, limit_per_package=1).manifest["leakage_check"]["summaries_in_their_documents"] == 2


def test_a_limit_keeps_a_stable_part(site: Path, tmp_path: Path):
    library(site)
    small, larger = build(tmp_path, limit_per_package=10), build(tmp_path, limit_per_package=20)
    assert small.documents().height == 20
    assert set(small.documents()["doc_id"]) < set(larger.documents()["doc_id"])


def test_packages_without_documentation_are_refused(site: Path, tmp_path: Path):
    write(site, "shelf_empty", {"__init__.py": '"""Short."""\n'})
    with pytest.raises(BadInput, match="shelf_empty"):
        build_python_docs(tmp_path, base=("shelf_empty",), shift=())


def test_a_build_that_was_cut_off_is_built_again(site: Path, tmp_path: Path):
    library(site)
    one = build(tmp_path)
    (one.folder / "manifest.json").unlink()
    assert build(tmp_path).manifest == one.manifest
    (one.folder / "queries.parquet").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"queries\.parquet changed"):
        load_corpus(one.folder)
