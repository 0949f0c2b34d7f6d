"""Training data that cannot be used, whole or in part: a message that names file, line and what is wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from row_files import PAIR, ROWS, put, rows_of, tsv

from lacos_st.data import describe, load_nli, load_pairs
from lacos_st.errors import UserError

BAD = [
    ("width.tsv", tsv(ROWS) + "neutral\tonly two\n", "line 4: 2 columns where the first row has 3"),
    ("label.tsv", tsv(ROWS) + "perhaps\ta\tb\n", "line 4: label 'perhaps' is none of"),
    ("empty.tsv", tsv(ROWS) + "neutral\t \tb\n", "line 4: an empty sentence"),
    ("quote.csv", 'anchor,positive\nA cat naps.,A cat sleeps.\n"a"b,c\n', "line 3: not RFC 4180 csv"),
    ("json.jsonl", '["A cat naps.", "A cat sleeps."]\n{"anchor": \n', "line 2: not JSON"),
    ("scalar.jsonl", '["A cat naps.", "A cat sleeps."]\n3\n', "line 2: neither a JSON object nor a list"),
    ("mixed.jsonl", '["A cat naps.", "A cat sleeps."]\n{"anchor": "a"}\n', "line 2: a JSON list among objects"),
    (
        "nan.jsonl",
        '{"anchor": "A cat naps.", "positive": "A cat sleeps."}\n{"anchor": NaN, "positive": "b"}\n',
        "found nan",
    ),
    ("latin.tsv", tsv(ROWS) + "neutral\ta\tb\udce9\n", "line 4: not UTF-8 (byte 0xe9"),
    ("latin.csv", "anchor,positive\nA cat naps.,A cat sleeps.\na,b\udce9\n", "line 3: not UTF-8 (byte 0xe9"),
    ("latin.jsonl", '["A cat naps.", "A cat sleeps."]\n["a", "\udce9"]\n', "line 2: not UTF-8 (byte 0xe9"),
    ("nul.tsv", tsv(ROWS) + "neutral\ta\0\tb\n", "line 4: a sentence holds the character NUL"),
    ("unseen.tsv", tsv(ROWS) + "neutral\ta\t\u200b \ufeff\n", "line 4: an empty sentence"),
    (
        "half.jsonl",
        '["A cat naps.", "A cat sleeps."]\n["a", "\\ud83d"]\n',
        "line 2: a sentence holds half of a surrogate",
    ),
    ("tab.tsv", "A cat naps.\tA cat sleeps.\na\tb\tc\n", "line 2: 3 columns where the first row has 2"),
    (
        "again.tsv",
        "anchor\tpositive\nA cat naps.\tA cat sleeps.\nanchor\tpositive\n",
        "line 3: the header again",
    ),
    (
        "twice.jsonl",
        '["A cat naps.", "A cat sleeps."]\n{"anchor": "a", "positive": "b", "anchor": "c"}\n',
        "line 2: not JSON: a key stands twice",
    ),
    (
        "label.jsonl",
        '{"anchor": "A cat naps.", "positive": "A cat sleeps."}\n'
        '{"anchor": "a", "positive": "b", "label": "contradiction"}\n',
        "line 2: a column label that the first row does not have",
    ),
    (
        "score.jsonl",
        '{"anchor": "A cat naps.", "positive": "A cat sleeps."}\n{"anchor": "a", "positive": "b", "Score": 0.0}\n',
        "line 2: a column score that the first row does not have",
    ),
    ("deep.jsonl", '["A cat naps.", "A cat sleeps."]\n' + "[" * 100_000 + "\n", "line 2: not JSON"),
    ("lines.csv", 'anchor,positive\nA cat naps.,A cat sleeps.\n"a\nb",c,d\n', "line 3: 3 columns"),
    ("gone.jsonl", '{"anchor": "A cat naps.", "positive": "A cat sleeps."}\n{"anchor": "b"}\n', "no positive"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD, ids=[name for name, *_ in BAD])
def test_malformed_rows_are_named_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str, message: str
) -> None:
    source = put(tmp_path / name, text)
    with pytest.raises(UserError) as caught:
        load_pairs([source])
    assert message in str(caught.value)
    assert name in str(caught.value)
    data = load_pairs([source], on_bad_row="skip")
    assert list(data) == [PAIR]
    report = describe(data)
    assert report is not None
    assert report.sources[0].bad == 1
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "1 malformed rows left out" in warning
    assert message in warning
    assert name in warning


def test_all_malformed_rows_are_counted_and_the_first_of_them_described(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(tmp_path / "a.tsv", tsv(ROWS) + "neutral\tx\n" * 14)
    with pytest.raises(UserError) as caught:
        load_pairs([source])
    load_pairs([source], on_bad_row="skip")
    for text in (str(caught.value), caplog.text):
        assert [f"line {number}: 2 columns" in text for number in (3, 4, 13, 14)] == [False, True, True, False]
        assert "and 4 more" in text
    assert "14 malformed, 3 usable rows" in str(caught.value)
    assert "--on-bad-row skip" in str(caught.value)
    assert "14 malformed rows left out, 3 usable" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a,b\nc,d\ne,f\n', "lines 2-4: not RFC 4180 csv: unexpected end of data"),  # the quote eats the file
        ('"a,b\n"c",d\ne,f\n', "lines 2-3: not RFC 4180 csv"),
        ('5" pipe,c\ne,f\n', "line 2: not RFC 4180 csv: a quote without its partner"),
        (f"a,{'b' * 200_000}\n", "line 2: a cell is longer than 131072 characters"),
    ],
)
def test_csv_in_which_rows_cannot_be_told_is_refused_in_any_case(tmp_path: Path, text: str, message: str) -> None:
    source = put(tmp_path / "a.csv", "anchor,positive\n" + text)
    for on_bad_row in ("error", "skip"):
        with pytest.raises(UserError) as caught:
            load_pairs([source], on_bad_row=on_bad_row)  # type: ignore[arg-type]
        assert message in str(caught.value)


def test_a_mark_within_joined_files_is_no_part_of_a_sentence(tmp_path: Path) -> None:
    rows = {("A cat naps.", "A cat sleeps."), ("x", "y")}
    tabs = put(tmp_path / "joined.tsv", "\ufeffA cat naps.\tA cat sleeps.\n\ufeffx\ty\n")
    quotes = put(tmp_path / "joined.csv", '\ufeff"A cat naps.","A cat sleeps."\n\ufeff"x","y"\n')
    lists = put(tmp_path / "joined.jsonl", '\ufeff["A cat naps.", "A cat sleeps."]\n\ufeff["x", "y"]\n')
    for source in (tabs, quotes, lists):
        assert rows_of(load_pairs([source])) == rows


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-16-le", "utf-32"])
def test_wide_encodings_are_named(tmp_path: Path, codec: str) -> None:
    mark = "" if codec in ("utf-16", "utf-32") else "\ufeff"
    (tmp_path / "wide.tsv").write_bytes((mark + tsv(ROWS)).encode(codec))
    for on_bad_row in ("error", "skip"):
        with pytest.raises(UserError, match=r"wide\.tsv is UTF-16 or UTF-32"):
            load_pairs([tmp_path / "wide.tsv"], on_bad_row=on_bad_row)  # type: ignore[arg-type]


def test_a_class_that_a_dataset_does_not_name_is_malformed(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
    )
    data = datasets.Dataset.from_dict({"premise": ["a"] * 3, "hypothesis": ["b", "c", "d"], "label": [0, -1, 2]})
    data.cast(features).to_parquet(tmp_path / "a.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    broken = table.set_column(2, table.schema.field("label"), pyarrow.array([0, -1, 9], pyarrow.int64()))
    pyarrow.parquet.write_table(broken.replace_schema_metadata(table.schema.metadata), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="row 3: label 'class 9' is none of"):
        load_pairs([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("two.csv", "premise,hypothesis,label,Label\na,b,0,1\n", "two columns label"),
        ("nothing.tsv", "", "no usable row"),
        ("header.csv", "anchor,positive\n", "no usable row"),
        ("no_gold.tsv", "-\ta\tb\n", "1 without a gold label"),
        ("one.tsv", "just a sentence\n", "one column"),
        ("four.tsv", "a\tb\tc\td\n", "4 columns whose meaning is unknown"),
        ("graded.tsv", "2.400000\ta\tb\n", "3 columns whose meaning is unknown"),
        ("graded.csv", "sentence1,sentence2,score\na,b,0.4\n", "graded pairs"),
        ("unlabelled.csv", "premise,hypothesis\na,b\n", "no label column"),
        ("columns.jsonl", '{"text": "a"}\n', "has the columns text"),
        ("neutral.tsv", "neutral\ta\tb\n", "without an entailment row (labels found: neutral)"),
        ("labels.tsv", "neutral\ta\tb\n1\tc\td\n", "mixes words and numbers"),
        ("a.txt", "a\tb\n", "no data file"),
    ],
)
def test_unusable_files_say_what_was_found(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_pairs([put(tmp_path / name, text)])
    assert message in str(caught.value)


def test_unusable_arguments_and_places(tmp_path: Path) -> None:
    good = put(tmp_path / "a.tsv", tsv(ROWS))
    with pytest.raises(UserError, match="no training data"):
        load_pairs([])
    with pytest.raises(UserError, match="max_rows is 0"):
        load_pairs([good], max_rows=0)
    with pytest.raises(UserError, match="on_bad_row is 'ignore'"):
        load_pairs([good], on_bad_row="ignore")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no file or folder 'no/such.tsv'"):
        load_pairs(["no/such.tsv"])
    with pytest.raises(UserError, match="no file or folder './here'"):
        load_pairs(["./here"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data file"):
        load_pairs([tmp_path / "empty"])
    two = put(tmp_path / "two.tsv", tsv(ROWS[:2]))
    with pytest.raises(UserError, match="three classes, found only: entailment, neutral"):
        load_nli([two])


@pytest.mark.parametrize("first", ["anchor", "query"])
def test_a_label_beside_a_positive_is_read(tmp_path: Path, first: str) -> None:
    file = put(tmp_path / "a.csv", f"{first},positive,label\na,b,0\nc,d,1\n")
    assert rows_of(load_pairs([file])) == {("c", "d")}
    topics = put(tmp_path / "b.csv", f"{first},positive,label\na,b,sports\n")
    with pytest.raises(UserError, match="label 'sports' is none of"):
        load_pairs([topics])
    scored = put(tmp_path / "c.csv", f"{first},positive,score\na,b,0.3\n")
    with pytest.raises(UserError, match="leave the column out if every row is such a pair"):
        load_pairs([scored])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "onlyone\na b\tc d\n"),
        ("a.jsonl", '{"anchor": "x"}\n{"anchor": "a b", "positive": "c d"}\n'),
        ("b.jsonl", '{"text": "x", "id": 3}\n{"anchor": "y"}\n{"anchor": "a b", "positive": "c d"}\n'),
    ],
)
def test_a_malformed_first_row_is_skipped_as_any_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, text: str
) -> None:
    file = put(tmp_path / name, text)
    with pytest.raises(UserError, match="has one column|has the columns"):
        load_pairs([file])
    assert rows_of(load_pairs([file], on_bad_row="skip")) == {("a b", "c d")}
    assert "line 1: columns whose meaning is unknown" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("premise\thypothesis\na\tb\n", "no label column"),
        ("id\tone\ttwo\n1\ta\tb\n2\tc\td\n", "3 columns whose meaning is unknown"),
        ("one\ntwo\n", "one column"),
    ],
)
def test_a_table_whose_columns_are_unknown_is_refused_with_skip_too(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_pairs([put(tmp_path / "a.tsv", text)], on_bad_row="skip")


def test_a_cell_longer_than_csv_takes_is_named(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv", 'anchor,positive\n"' + "x" * 200_000 + '",b\n')
    with pytest.raises(UserError, match="line 2: a cell is longer than 131072 characters"):
        load_pairs([file])


def test_broken_files_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "latin.tsv").write_bytes("a\tb\né\tc\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.tsv, line 2: not UTF-8"):
        load_pairs([tmp_path / "latin.tsv"])
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(tsv(ROWS * 500).encode())[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        load_pairs([tmp_path / "cut.tsv.gz"])
    (tmp_path / "fake.tsv.gz").write_bytes(b"a\tb\n")
    with pytest.raises(UserError, match="cannot be read"):
        load_pairs([tmp_path / "fake.tsv.gz"])
