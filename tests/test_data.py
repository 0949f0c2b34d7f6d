"""Training data: every kind of source, and every kind of label."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_files import PAIR, ROWS, put, rows_of, tsv

from lacos_st import grammar
from lacos_st.data import describe, load_nli, load_pairs
from lacos_st.errors import UserError
from lacos_st.sources import flaw

DATA = Path(os.environ.get("LACOS_DATA", Path(__file__).parents[1] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="development data absent: set LACOS_DATA to its folder")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", tsv(ROWS)),
        ("last.tsv", tsv([(one, two, label) for label, one, two in ROWS])),
        ("crlf.tsv", tsv(ROWS).replace("\n", "\r\n")),
        ("bom.tsv", "\ufeff" + tsv(ROWS) + "\n\n"),
        ("no_end.tsv", tsv(ROWS).rstrip("\n")),
        ("short.tsv", tsv([(label[0], one, two) for label, one, two in ROWS])),
        ("numbers.tsv", tsv([(str(place), one, two) for place, (_, one, two) in enumerate(ROWS)])),
        ("floats.tsv", tsv([(f"{place}.0", one, two) for place, (_, one, two) in enumerate(ROWS)])),
        ("no_gold.tsv", tsv([("-", "x", "y"), *ROWS, ("-", "", "")])),
        ("head.tsv", tsv([("gold_label", "sentence1", "sentence2"), *ROWS])),
        ("order.csv", "Hypothesis,id,Premise,Label\n" + "".join(f'"{b}",7,"{a}",{c}\n' for c, a, b in ROWS)),
        ("rows.jsonl", "".join(json.dumps({"premise": a, "hypothesis": b, "label": c}) + "\n" for c, a, b in ROWS)),
        ("ids.jsonl", "".join(json.dumps({"s1": a, "s2": b, "label": n}) + "\n" for n, (_, a, b) in enumerate(ROWS))),
    ],
)
def test_nli_in_any_shape_gives_pairs_and_classes(tmp_path: Path, name: str, text: str) -> None:
    source = put(tmp_path / name, text)
    zipped = tmp_path / (name + ".gz")
    zipped.write_bytes(gzip.compress(text.encode()))
    for path in (source, str(zipped)):
        assert list(load_pairs([path])) == [PAIR]
        nli = load_nli([path])
        assert nli.column_names == ["sentence1", "sentence2", "label"]
        assert rows_of(nli) == {(one, two, place) for place, (_, one, two) in enumerate(ROWS)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "A cat naps.\tA cat sleeps.\n"),
        ("head.csv", "anchor,positive,negative\nA cat naps.,A cat sleeps.,A dog barks.\n"),
        ("unlabelled.tsv", "sentence1\tsentence2\nA cat naps.\tA cat sleeps.\n"),
        ("list.jsonl", '["A cat naps.", "A cat sleeps."]\n'),
        ("named.jsonl", '{"first": "A cat naps.", "second": "A cat sleeps."}\n'),
        ("mrpc.tsv", "1\tA cat naps.\tA cat sleeps.\n0\tA cat naps.\tA dog barks.\n"),
    ],
)
def test_pairs_in_any_shape_and_never_as_nli(tmp_path: Path, name: str, text: str) -> None:
    source = put(tmp_path / name, text)
    assert list(load_pairs([source])) == [PAIR]
    with pytest.raises(UserError, match="three classes"):
        load_nli([source])


def test_tsv_is_unquoted_and_csv_is_quoted(tmp_path: Path) -> None:
    plain = load_pairs([put(tmp_path / "a.tsv", '"Hi\tthere", he said\u2028twice\x0b.\n')])
    assert list(plain) == [{"anchor": '"Hi', "positive": 'there", he said\u2028twice\x0b.'}]
    quoted = load_pairs([put(tmp_path / "a.csv", '"two\nlines","say ""hi"", now"\n')])
    assert list(quoted) == [{"anchor": "two\nlines", "positive": 'say "hi", now'}]


def test_parquet_uses_class_names_and_refuses_null(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["contradiction", "entailment", "neutral"])  # not our order
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
    )
    table = {"premise": ["a", "b", "c", "d"], "hypothesis": ["e", "f", "g", "h"], "label": [1, 2, 0, -1]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(tmp_path / "a.parquet")
    data = load_nli([tmp_path / "a.parquet"])
    assert rows_of(data) == {("a", "e", 0), ("b", "f", 1), ("c", "g", 2)}
    report = describe(data)
    assert report is not None
    assert report.sources[0].no_gold == 1
    pd.DataFrame({"anchor": ["a", None], "positive": ["b", "c"]}).to_parquet(tmp_path / "null.parquet")
    with pytest.raises(UserError, match=r"null\.parquet, row 2: expected text, found None"):
        load_pairs([tmp_path / "null.parquet"])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        load_pairs([tmp_path / "broken.parquet"])


def test_folder_is_read_recursively_and_sources_are_mixed(tmp_path: Path) -> None:
    (tmp_path / "set/deep/.cache").mkdir(parents=True)
    put(tmp_path / "set/b.tsv", tsv(ROWS))
    put(tmp_path / "set/deep/a.csv", "anchor,positive\nx,y\n")
    put(tmp_path / "set/README.md", "not data")
    put(tmp_path / "set/deep/.cache/c.tsv", "hidden\tfile\n")
    extra = put(tmp_path / "c.tsv", "p\tq\nA cat naps.\tA cat sleeps.\n")
    data = load_pairs([str(tmp_path / "set"), extra], seed=5)
    assert rows_of(data) == {("A cat naps.", "A cat sleeps."), ("x", "y"), ("p", "q")}
    report = describe(data)
    assert report is not None
    assert [(part.kind, part.files, part.entailment, part.neutral) for part in report.sources] == [
        ("nli+pairs", 2, 2, 1),
        ("pairs", 1, 2, 0),
    ]
    assert (report.duplicates, report.rows, report.seed) == (1, 3, 5)
    assert describe(data.select([0])) == report
    assert describe(datasets.Dataset.from_dict({"a": [1]})) is None


def test_order_follows_the_seed_and_both_methods_keep_the_same_rows(tmp_path: Path) -> None:
    source = str(tmp_path / "nli")
    grammar.write(tmp_path, nli_rows=90, graded_rows=1, languages=["en", "fr"])
    assert list(load_pairs([source], seed=1)) == list(load_pairs([source], seed=1))
    assert list(load_pairs([source], seed=1)) != list(load_pairs([source], seed=2))
    nli = load_nli([source], seed=1, max_rows=60)
    assert len(nli) == 60
    entailed = [(row["sentence1"], row["sentence2"]) for row in nli if row["label"] == 0]
    pairs = load_pairs([source], seed=1, max_rows=60)
    assert [tuple(row.values()) for row in pairs] == entailed
    report = describe(pairs)
    assert report is not None
    assert report.over_limit == 120


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("nyu-mll/multi_nli", ("nyu-mll/multi_nli", None, "train")),
        ("facebook/xnli:fr", ("facebook/xnli", "fr", "train")),
        ("sentence-transformers/all-nli:pair-class@dev", ("sentence-transformers/all-nli", "pair-class", "dev")),
    ],
)
def test_hub_names_are_taken_apart(monkeypatch: pytest.MonkeyPatch, source: str, call: tuple[Any, ...]) -> None:
    calls = []
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])

    def stand_in(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        calls.append((name, config, split))
        table = {
            "promptID": [1, 2, 3, 4],
            "premise": ["a"] * 4,
            "hypothesis": ["b", "c", "d", "e"],
            "label": [0, 1, 2, -1],
        }
        return datasets.Dataset.from_dict(table).cast_column("label", names)

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    assert list(load_pairs([source])) == [{"anchor": "a", "positive": "b"}]
    assert rows_of(load_nli([source])) == {("a", "b", 0), ("a", "c", 1), ("a", "d", 2)}
    assert calls == [call, call]


def test_a_real_load_dataset_reads_a_local_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` itself on a folder laid out as a hub repository; only the look-up by name is replaced."""
    (tmp_path / "repo").mkdir()
    datasets.Dataset.from_dict({"anchor": ["a"], "positive": ["b"]}).to_parquet(tmp_path / "repo/train-0.parquet")
    real = datasets.load_dataset
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, config, *, split: real(str(tmp_path / "repo"), config, split=split, cache_dir=cache),
    )
    assert list(load_pairs(["owner/pairs"])) == [{"anchor": "a", "positive": "b"}]
    with pytest.raises(UserError, match=r"split validation\): ValueError: Unknown split"):
        load_pairs(["owner/pairs@validation"])


def test_no_network_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'owner/nothing' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"(?s)neither a file or folder here.*Couldn't reach.*the network"):
        load_pairs(["owner/nothing"])


text = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Cn"]), min_size=1).map(str.strip)
text = text.filter(lambda sentence: flaw(sentence) is None)  # a soft hyphen alone is none


@given(st.lists(st.tuples(text, text), min_size=1, max_size=20), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_any_text_survives_each_format(rows: list[tuple[str, str]], seed: int) -> None:
    frame = pd.DataFrame(rows, columns=["anchor", "positive"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put(folder / "a.tsv", tsv([("anchor", "positive"), *rows]))
        frame.to_csv(folder / "a.csv", index=False)
        frame.to_json(folder / "a.jsonl", orient="records", lines=True)
        frame.to_parquet(folder / "a.parquet")
        for file in sorted(folder.iterdir()):
            data = load_pairs([file], seed=seed)
            assert rows_of(data) == set(rows), file.name
            assert len(data) == len(set(rows))


@needs_data
@pytest.mark.parametrize(
    ("name", "count"),
    [("snli_sample18k", 18000), ("snli_tok.dev", 9842), ("snli_tok.test", 9824)]
    + [("indonli.train", 10330), ("indonli.val", 2197), ("indonli.test_lay", 2201), ("indonli.test_expert", 2984)],
)
def test_real_nli_files_parse_whole(name: str, count: int) -> None:
    data = load_nli([DATA / f"nli/{name}.tsv"])
    report = describe(data)
    assert report is not None
    assert report.rows + report.duplicates == count
    assert report.sources[0].bad == report.sources[0].no_gold == 0


@needs_data
def test_real_xnli_parses_whole_a_third_entailment() -> None:
    report = describe(load_pairs([DATA / "nli/xnli"]))
    assert report is not None
    (source,) = report.sources
    third = (15 * 2490 + 16 * 5010) // 3
    assert source.files == 31
    assert (source.entailment, source.neutral, source.contradiction) == (third, third, third)


@needs_data
def test_real_paraphrases_parse_whole() -> None:
    for name, yes, no in (("train", 2753, 1323), ("test", 1147, 578)):  # counted with cut | sort | uniq -c
        report = describe(load_pairs([DATA / f"para/mrpc.{name}.tsv"]))
        assert report is not None
        assert (report.sources[0].entailment, report.sources[0].not_pairs) == (yes, no)
