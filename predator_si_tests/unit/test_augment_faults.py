"""What comes in wrong or in an unexpected shape: nothing to aim at, one document, other languages, huge texts, spam of clicks, a full disk; and the caps."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.augment import Dataset, Filters, Guard, Sizes, build_dataset, dataset_id_for, read_manifest, write_dataset
from predator_si.augment.filters import Yield
from predator_si.augment.recipe import Proposal
from predator_si.augment.selection import DocumentClusters, select
from predator_si.augment.teacher import CrossEncoder, ensemble_of
from predator_si.corpora.words import tokens
from predator_si.errors import BadInput, Unavailable
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder
from predator_si_tests.support.augment_ground import rich
from predator_si_tests.support.generator_material import empty_log, report

CYCLE = "si_2026_11_22_001"
NOBODY = Guard([], frozenset())
SMALL = Sizes(click_groups=30, document_groups=60)


def build(docs: pl.DataFrame, log: pl.DataFrame | None = None, **changes: Any) -> Dataset:
    index = changes.pop("index", None) or HybridIndex.build(docs, HashingEmbedder())
    given: dict[str, Any] = {"teacher": None, "sizes": SMALL, "seed": 1, **changes}
    asked = empty_log() if log is None else log
    return build_dataset(CYCLE, given.pop("report", report()), asked, docs, index, given.pop("guard", NOBODY), given.pop("teacher"), **given)


@pytest.fixture(scope="module")
def docs() -> pl.DataFrame:
    return rich(120)


@pytest.fixture(scope="module")
def made(docs: pl.DataFrame) -> Dataset:
    return build(docs)


class TestEverythingTogether:
    def test_a_report_that_names_nothing_still_gives_groups_spread_over_the_topics(self, made: Dataset):
        assert made.statistics["groups"] >= 40 and made.statistics["targeted_groups"] == 0
        assert made.statistics["plan"]["reason"].startswith("spread") and made.manifest["target_tokens"] == []

    def test_crops_stay_filler_and_a_document_answers_at_most_three(self, made: Dataset):
        by_source = made.statistics["groups_by_source"]
        assert by_source.get("crop", 0) <= 0.2 * sum(by_source.values())
        answers = made.examples.filter(pl.col("label") == 1.0)["doc_id"]
        assert answers.value_counts()["count"].max() <= 3

    def test_an_arm_without_one_source_keeps_the_groups_of_the_others_as_they_are(self, docs: pl.DataFrame, made: Dataset):
        from predator_si.augment.generators.standard import standard_generators

        fewer = build(docs, generators=[one for one in standard_generators() if one.source != "crop"])
        assert "crop" not in fewer.statistics["groups_by_source"]
        key = ["query", "doc_id", "kind", "first_stage_rank"]
        both = set(made.examples["query"]) & set(fewer.examples["query"])
        assert len(both) >= 20
        for query in both:
            assert made.examples.filter(pl.col("query") == query).select(key).equals(fewer.examples.filter(pl.col("query") == query).select(key))

    def test_the_manifest_says_how_to_make_it_again(self, made: Dataset):
        assert {one["source"] for one in made.manifest["generators"]} == {"clicks", "log", "title", "template", "phrase", "crop"}
        assert all(one["version"] for one in made.manifest["generators"])
        assert made.manifest["seed"] == 1 and made.manifest["teacher"] is None and made.manifest["filters"]["round_trip"] == 10
        assert made.statistics["cluster_entropy"] is not None and 0 < made.statistics["cluster_entropy"] <= 1


class TestTeacher:
    def test_log_queries_are_answered_and_labelled_and_stay_sealed(self, docs: pl.DataFrame, tmp_path: Path):
        index = HybridIndex.build(docs, HashingEmbedder())
        texts = [f"{verb} the values of a {thing}" for verb in ("sorts", "plots", "caches") for thing in ("event queue", "socket pool", "date index")]
        nothing: list[list[str]] = [[] for _ in texts]
        log = empty_log().vstack(pl.DataFrame({"text": texts, "clicked": nothing, "impressions": nothing}, schema=empty_log().schema))
        log = log.with_columns(sealed=pl.Series([f"q1.{number:02d}" for number in range(len(texts))]))
        overlap = CrossEncoder(lambda pairs: np.array([len(set(tokens(q)) & set(tokens(t))) for q, t in pairs], float))
        teacher = ensemble_of(index, overlap._score_pairs)
        found = build(docs, log, index=index, teacher=teacher, sizes=Sizes(click_groups=0, log_groups=20, document_groups=20))
        assert found.statistics["groups_by_source"]["log"] >= 5 and found.statistics["teacher"] == teacher.name
        asked = found.examples.filter(pl.col("source") == "log")
        assert asked["teacher_score"].null_count() == 0
        for group in asked.partition_by("group_id", maintain_order=True):
            assert group["teacher_score"][0] == group["teacher_score"].max() and group["label"].to_list() == [1.0] + [0.0] * (group.height - 1)
        stored = pl.read_parquet(write_dataset(tmp_path, found)["parquet"])
        assert stored.filter(pl.col("source") == "log")["query"].str.starts_with("q1.").all()
        assert not stored.filter(pl.col("source") != "log")["query"].str.starts_with("q1.").any()
        labelled = found.statistics["teacher_labels"]
        assert labelled["log"]["answered"] >= 5 and labelled["groups"]["left_groups"] == 0

    def test_what_the_budget_did_not_reach_stays_without_scores_and_is_said(self, docs: pl.DataFrame):
        from predator_si.augment.pseudo_labels import Budget

        index = HybridIndex.build(docs, HashingEmbedder())
        found = build(docs, index=index, teacher=ensemble_of(index, None), budget=Budget(examples=60, seconds=None))
        missing = found.examples.filter(pl.col("teacher_score").is_null())
        assert 0 < found.examples.height - missing.height <= 60
        assert "60 examples" in found.statistics["teacher_labels"]["groups"]["reason"]


class TestMaterial:
    def test_one_document_is_not_enough_and_the_filter_is_named(self, docs: pl.DataFrame):
        with pytest.raises(BadInput, match=r"no training group is left; .* the last fell at enough_negatives"):
            build(docs.head(1))

    def test_nothing_to_draw_from(self, docs: pl.DataFrame):
        with pytest.raises(BadInput, match="neither the log nor the documents gave a single query"):
            build(docs.with_columns(title=pl.lit(""), text=pl.lit("")))

    def test_the_greediest_filter_is_named(self, docs: pl.DataFrame):
        with pytest.raises(BadInput, match=r"length took most, \d+ of \d+"):
            build(docs, filters=Filters(words=(60, 64)))
        with pytest.raises(BadInput, match=r"leakage took most"):
            build(docs, guard=Guard([], set(docs["doc_id"])), generators=[Fixed([Proposal(docs["text"][0][:40], "d0", "title", "t", 1.0, False)])])

    def test_doubled_documents_unknown_sources_and_protected_filters_are_refused(self, docs: pl.DataFrame):
        index = HybridIndex.build(docs, HashingEmbedder())
        with pytest.raises(BadInput, match="'d0' is there twice"):
            build(pl.concat([docs, docs.head(1)]), index=index)
        with pytest.raises(BadInput, match="source guess"):
            build(docs, index=index, generators=[Fixed([], "guess")])
        with pytest.raises(BadInput, match="leakage cannot be left out"):
            build(docs, index=index, filters=Filters(off=frozenset({"leakage"})))

    def test_documents_of_no_and_of_a_million_characters(self, docs: pl.DataFrame):
        odd = pl.DataFrame({"doc_id": ["void", "huge"], "title": ["", "huge.Reference"], "text": ["", docs["text"][0] * (10**6 // len(docs["text"][0]))]})
        found = build(pl.concat([docs.select("doc_id", "title", "text"), odd]))
        assert found.statistics["groups"] >= 40 and found.examples["text"].str.len_chars().max() <= 20_000
        assert "void" not in found.examples.filter(pl.col("label") == 1.0)["doc_id"].to_list()

    @pytest.mark.parametrize(("name", "script"), [("xquad-ru", r"\p{Cyrillic}"), ("man-uk", r"\p{Cyrillic}")])
    def test_collections_that_are_not_english(self, name: str, script: str):
        folder = Path(__file__).resolve().parents[3] / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"{name} is not on this machine: the judged collections are not part of the project")
        frame = _beir_documents(folder)
        found = build(frame.head(80))
        assert found.statistics["groups"] >= 20
        queries = found.examples.filter(pl.col("label") == 1.0)["query"]
        assert queries.str.contains(script).mean() > 0.9, "queries are in the documents' language"
        proposals = [Proposal(f"how to list every file {i}", frame["doc_id"][i], "llm", "llm", 1.0, False) for i in range(5)]
        with pytest.raises(BadInput, match="language took most"):
            build(frame.head(80), generators=[Fixed(proposals, "llm")], filters=Filters(off=frozenset({"round_trip"})))


class TestClicks:
    def test_a_client_that_clicks_everything_decides_nothing(self, docs: pl.DataFrame):
        shown = [f"d{i}" for i in range(10)]
        texts = [f"plot the {thing} of helper{i}" for i, thing in enumerate(("date index", "event queue", "socket pool", "beam search") * 5)]
        rows = [("bot", text, list(reversed(shown))[:9]) for text in texts for _ in range(5)] + [(f"c{k}", text, ["d1"]) for text in texts for k in range(2)]
        log = pl.DataFrame(rows, schema={"client_id": pl.String, "text": pl.String, "clicked": pl.List(pl.String)}, orient="row")
        log = log.with_columns(impressions=pl.Series([shown] * len(rows)), dwell=pl.lit(45.0))
        found = build(docs, log)
        clicks = found.examples.filter((pl.col("source") == "clicks") & (pl.col("label") == 1.0))
        assert clicks.height > 0 and set(clicks["doc_id"]) == {"d1"}
        assert found.statistics["clients"]["indiscriminate_clients"] == 1


class TestSelection:
    def pool(self, count: int, source: str, *, targeted: bool = False, cluster: str = "a") -> list[Proposal]:
        return [Proposal(f"{source} {cluster} {i} {targeted}", f"{cluster}{i}", source, source, 1.0, targeted) for i in range(count)]

    def chosen(self, pool: list[Proposal], clusters: DocumentClusters | None = None, **sizes: Any) -> tuple[list[Proposal], Yield]:
        tally = Yield()
        tally.count("proposed", pool)
        shares = {"title": 0.6, "phrase": 0.3, "crop": 0.1}
        return select(pool, Sizes(click_groups=5, **{"document_groups": 40, **sizes}), Filters(), shares, clusters, tally)[0], tally

    def test_sources_come_by_their_shares_and_fill_up_for_each_other(self):
        both, _ = self.chosen(self.pool(100, "title") + self.pool(100, "phrase", cluster="b"))
        counts = [sum(p.source == source for p in both) for source in ("title", "phrase")]
        assert sum(counts) == 40 and counts[0] in (26, 27)
        scarce, _ = self.chosen(self.pool(100, "title") + self.pool(4, "phrase", cluster="b"))
        assert sum(p.source == "title" for p in scarce) == 36

    def test_crops_alone_cannot_fill_the_room(self):
        found, _ = self.chosen(self.pool(8, "title") + self.pool(100, "crop", cluster="b"))
        assert sum(p.source == "crop" for p in found) == 2

    def test_aimed_ones_keep_at_most_half(self):
        found, tally = self.chosen(self.pool(100, "title", targeted=True) + self.pool(100, "title", cluster="b"))
        assert sum(p.targeted for p in found) == 20 and len(found) == 40 and tally.steps["size"] == {"title": 40}

    def test_no_cluster_has_more_than_its_share_unless_aimed_at(self):
        class Two(DocumentClusters):
            def __init__(self) -> None:
                self.shares = np.array([0.5, 0.5])

            def of(self, doc_ids: Any) -> list[int]:
                return [0 if doc_id.startswith("a") else 1 for doc_id in doc_ids]

        found, _ = self.chosen(self.pool(100, "title") + self.pool(5, "title", cluster="b"), Two())
        assert sum(p.doc_id.startswith("a") for p in found) == 30 and len(found) == 35
        aimed, _ = self.chosen(self.pool(100, "title", targeted=True), Two(), targeted_share=1.0)
        assert len(aimed) == 40

    def test_clusters_of_vectors(self):
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(0, 0.05, (90, 8)) + np.eye(8)[0], rng.normal(0, 0.05, (30, 8)) + np.eye(8)[1]]).astype(np.float32)
        ids = [f"d{i}" for i in range(120)]
        clusters = DocumentClusters(lambda chosen: points[[int(i[1:]) for i in chosen]], ids, 2, 0)
        assert sorted(clusters.shares.tolist()) == [0.25, 0.75]
        assert len(set(clusters.of(ids[:90]))) == 1 and len(set(clusters.of(ids))) == 2


class TestFullDisk:
    def test_nothing_is_half_written(self, made: Dataset, tmp_path: Path):
        write_dataset(tmp_path, made)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert set(before) == {"augmented_dataset.parquet", "augmented_dataset.csv", "dataset_manifest.yaml"}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the CSV does not fit: the write fails as on a full disk
            with pytest.raises(Unavailable, match=r"cannot be written .*nothing was changed"):
                write_dataset(tmp_path, Dataset(made.dataset_id, pl.concat([made.examples] * 3), made.statistics, made.manifest))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_names_of_data_sets(self, made: Dataset, tmp_path: Path):
        assert read_manifest(write_dataset(tmp_path, made)["manifest"])["dataset_id"] == "aug_2026_11_22_001"
        assert dataset_id_for("si_2026_11_22_001") == dataset_id_for("aug_2026_11_22_001") == "aug_2026_11_22_001"
        with pytest.raises(BadInput, match="neither a cycle"):
            dataset_id_for("yesterday")


class Fixed:
    """A generator with given proposals."""

    def __init__(self, proposals: list[Proposal], source: str = "title") -> None:
        self.source = source
        self._proposals = proposals

    def propose(self, material: Any, wanted: int, rng: np.random.Generator) -> Any:
        yield from self._proposals


def _beir_documents(folder: Path) -> pl.DataFrame:
    import gzip
    import json

    path = next(iter(sorted(folder.glob("corpus.jsonl*"))))
    raw = path.read_bytes()
    rows = [json.loads(line) for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines() if line.strip()]
    return pl.DataFrame({"doc_id": [r["_id"] for r in rows], "title": [r.get("title") or "" for r in rows], "text": [r["text"] for r in rows]})
