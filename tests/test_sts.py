"""Graded pairs: the files' shapes, the names, the messages."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lacos_st import sts
from lacos_st.errors import UserError
from lacos_st.sts import StsTask, load_mteb_task, load_sentences, load_task_file, load_tasks

DATA = Path(os.environ.get("LACOS_DATA", Path(__file__).parents[1] / "../shared/data"))
ROWS = "0.5\tA cat.\tA dog.\n5\tA cat.\tThe cat.\n"
SUBSET_ROWS = "".join(f"news\t{row}\n" for row in ROWS.splitlines())


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """A small folder of the known layout."""
    root = tmp_path / "data" / "sts"
    for folder in ("en", "sts17", "stsb_multi_mt"):
        (root / folder).mkdir(parents=True)
    for name in ("STS12", "STS16", "STSb.test", "STSb.dev"):
        (root / "en" / f"{name}.tsv").write_text(SUBSET_ROWS)
    (root / "en" / "SICK.tsv").write_text("train\t1\tA\tB\tNEUTRAL\ntest\t3\tA\tC\tENTAILMENT\n")
    for name in ("track1.ar-ar", "track4a.es-en", "track4b.es-en", "track5.en-en"):
        (root / "sts17" / f"{name}.tsv").write_text(ROWS)
    (root / "stsb_multi_mt" / "test.en.tsv").write_text(ROWS)
    (root / "stsb_multi_mt" / "test.fr.tsv").write_text("0.5\tUn chat.\tUn chien.\n5\tUn chat.\tLe chat.\n")
    return root


def test_known_layout_has_the_english_sets_and_the_language_pairs_without_4b(known: Path) -> None:
    tasks = load_tasks(known)
    assert [(task.name, task.group, task.languages) for task in tasks] == [
        ("STS12", "sts", "en-en"),
        ("STS16", "sts", "en-en"),
        ("STSBenchmark", "sts", "en-en"),
        ("SICK-R", "sts", "en-en"),
        ("STS17.ar-ar", "xsts", "ar-ar"),
        ("STS17.es-en", "xsts", "es-en"),
        ("STS17.en-en", "xsts", "en-en"),
    ]
    assert load_tasks(known.parent) == tasks


def test_scores_are_kept_and_scaled_by_the_set(known: Path) -> None:
    sts12, sick = load_tasks(known, names=["STS12", "SICK-R"])
    assert (sts12.scores, sts12.score_range, sts12.unit_scores) == ((0.5, 5.0), (0.0, 5.0), [0.1, 1.0])
    assert (sick.scores, sick.score_range, sick.unit_scores) == ((1.0, 3.0), (1.0, 5.0), [0.0, 0.5])


def test_names_choose_other_tracks_whole_sets_and_any_two_aligned_languages(known: Path) -> None:
    names = ["STSb-multi.en-fr", "STS17.es-en-4b", "STS17", "STSBenchmark-dev", "STSb-multi.fr"]
    tasks = load_tasks(known, names=names)
    assert [task.name for task in tasks] == [
        "STSb-multi.en-fr",
        "STS17.es-en-4b",
        "STS17.ar-ar",
        "STS17.es-en",
        "STS17.en-en",
        "STSBenchmark-dev",
        "STSb-multi.fr",
    ]
    assert (tasks[0].sentences1[0], tasks[0].sentences2[0], tasks[0].languages) == ("A cat.", "Un chien.", "en-fr")
    assert tasks[-1].languages == "fr-fr"


def test_all_sentences_are_those_of_the_sets_that_are_no_defaults_too(known: Path, tmp_path: Path) -> None:
    files = {"en/STSb.dev": "news\t", "sts17/track4b.es-en": "", "stsb_multi_mt/dev.fr": "", "en/STS12": "news\t"}
    for name, subset in files.items():
        (known / f"{name}.tsv").write_text(f"{subset}1\tfirst {name}\tA\n{subset}2\tB\tsecond {name}\n")
    found = load_sentences(known.parent)
    assert {f"{place} {name}" for name in files for place in ("first", "second")} <= found
    assert {"Un chien.", "A cat."} <= found
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "own.csv").write_text("1,a,b\n2,c,d\n")
    assert load_sentences(tmp_path / "plain") == {"a", "b", "c", "d"}
    assert load_sentences(tmp_path / "plain" / "own.csv") == {"a", "b", "c", "d"}
    (tmp_path / "notes.txt").write_text("mine")
    for nothing in (tmp_path / "none", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match=r"no such folder|no graded pairs|exclude_sts .* ends in neither"):
            load_sentences(nothing)


def test_a_file_is_no_folder_of_tasks(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("1,a,b\n2,c,d\n")
    with pytest.raises(UserError, match=r"own.csv is a file: name its folder \(.*\), and the task by the file's name"):
        load_tasks(tmp_path / "own.csv")
    assert [task.name for task in load_tasks(tmp_path, names=["own"])] == ["own"]


def test_unaligned_languages_are_refused(known: Path) -> None:
    (known / "stsb_multi_mt" / "test.fr.tsv").write_text("5\tUn chat.\tUn chien.\n0.5\tUn chat.\tLe chat.\n")
    with pytest.raises(UserError, match="not aligned"):
        load_tasks(known, names=["STSb-multi.en-fr"])


def test_unknown_name_is_answered_with_the_known_ones(known: Path) -> None:
    with pytest.raises(UserError, match=r"'STS99'.*STS12, STS16, STSBenchmark, SICK-R.* cross-lingual"):
        load_tasks(known, names=["STS99"])


def test_any_other_folder_is_read_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "mine.en-fr.tsv").write_text(ROWS)
    (tmp_path / "plain.csv").write_text('score,sentence1,sentence2\n1,"one, two",three\n9,"say ""hi""",four\n')
    (tmp_path / "uni.de.tsv").write_text('-1\tein "Hund\u2028da\tKatze\r\n1\tHund\tHund\r\n', encoding="utf-8")
    mine, plain, uni = load_tasks(tmp_path)
    assert (mine.name, mine.languages, mine.group) == ("mine.en-fr", "en-fr", "xsts")
    assert (plain.languages, plain.group, plain.score_range) == ("?", "sts", (1.0, 9.0))
    assert plain.sentences1 == ("one, two", 'say "hi"')
    assert (uni.languages, uni.sentences1, uni.sentences2) == (
        "de-de",
        ('ein "Hund\u2028da', "Hund"),
        ("Katze", "Hund"),
    )


def test_files_in_capitals_and_compressed_are_read_and_others_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "5\ta\tb {}\n0\tc\td\n"
    (tmp_path / "A.TSV").write_text(rows.format("capitals"), encoding="utf-8")
    (tmp_path / "b.en-de.tsv.gz").write_bytes(gzip.compress(rows.format("compressed").encode()))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b'5,"a, b",e\n0,c,d\n'))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "lost.tsv").write_text(rows, encoding="utf-8")
    tasks = load_tasks(tmp_path)
    assert [(task.name, task.languages) for task in tasks] == [("A", "?"), ("b.en-de", "en-de"), ("c", "?")]
    assert {"b capitals", "b compressed", "a, b"} < load_sentences(tmp_path)
    assert "not read as graded pairs: sub/lost.tsv" in caplog.text
    (tmp_path / "A.csv").write_text("5,a,b\n0,c,d\n", encoding="utf-8")
    with pytest.raises(UserError, match="would both be the task A"):
        load_tasks(tmp_path)


def test_files_beside_the_known_layout_are_named(known: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_sentences(known)
    assert "not read" not in caplog.text
    (known / "mine.tsv").write_text("5\ta\tb\n0\tc\td\n", encoding="utf-8")
    (known / "en" / "Mine.tsv").write_text("5\ta\tb\n0\tc\td\n", encoding="utf-8")
    assert "mine" not in {task.name for task in load_tasks(known)}
    assert "not read as graded pairs: en/Mine.tsv, mine.tsv;" in caplog.text


def test_a_column_for_the_subset_may_come_first(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text("news\t1\tA\tB\nforum\t2\tC\tD\n")
    (task,) = load_tasks(tmp_path, names=["dev"])
    assert (task.scores, task.sentences1, task.sentences2) == ((1.0, 2.0), ("A", "C"), ("B", "D"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("1\tA\n", "line 1: 2 columns, expected 3"),
        ("1\tA\tB\n2\tA\tB\tC\n", "line 2: 4 columns, expected 3"),
        ("x\t1\tA\tB\n2\tA\tB\n", "line 2: 3 columns, expected 4"),
        ("1\tA\tB\n\n2\tA\tB\n", "line 2: 1 columns"),
        ("1\tA\tB\nhigh\tA\tB\n", "line 2: score 'high' is not a number"),
        ("1\tA\tB\nnan\tA\tB\n", "line 2: score 'nan' is not a finite number"),
        ("1\tA\tB\ninf\tA\tB\n", "line 2: score 'inf' is not a finite number"),
        ("1\tA\tB\n1_5\tA\tB\n", "line 2: score '1_5' is not a number"),
        ("1\tA\tB\n2\tA\t \n", "line 2: an empty sentence"),
        ("1\tA\tB\n2\t\u200b\tB\n", "line 2: an empty sentence"),
        ("1\tA\tB\n2\tA\0\tB\n", "line 2: a sentence holds the character NUL"),
        ("1\tA\tB\n2\tA\nnan\tA\tB\n", r"line 2: 2 columns.*; line 3: score 'nan'.*\(2 malformed, 1 usable rows\)"),
        ("1\tA\tB\n1\tA\tC\n", "2 pairs with 1 different scores"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_tasks(tmp_path)
    assert "bad.tsv" in str(caught.value)


def test_score_outside_the_known_scale_is_refused(known: Path) -> None:
    (known / "en" / "STS12.tsv").write_text(SUBSET_ROWS + "news\t5.1\tA\tB\n")
    with pytest.raises(UserError, match=r"STS12.tsv, line 3: score '5.1' is not a number between 0 and 5"):
        load_tasks(known, names=["STS12"])


def test_broken_encoding_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_tasks(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no graded pairs"):
        load_tasks(tmp_path)
    (tmp_path / "bad.tsv").write_bytes(b"1\t\xff\xfe\tB\n")
    with pytest.raises(UserError, match=r"bad.tsv, line 1: not UTF-8 \(byte 0xff"):
        load_tasks(tmp_path)


def test_a_csv_row_is_named_by_the_line_it_starts_at(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeff1,"A\r\nC","say ""B"""\r\n2,A,B\r\n', newline="")
    (task,) = load_tasks(tmp_path)
    assert (task.scores, task.sentences1[0], task.sentences2[0]) == ((1.0, 2.0), "A\r\nC", 'say "B"')
    (tmp_path / "a.csv").write_text('1,A,B\nnan,"A\nC",B\n2,A,B\n')
    with pytest.raises(UserError, match="a.csv, line 2: score 'nan'"):
        load_tasks(tmp_path)
    (tmp_path / "a.csv").write_text('1,A,B\n2,"A,B\n3,A,B\n')
    with pytest.raises(UserError, match="a.csv, lines 2-3: not RFC 4180"):
        load_tasks(tmp_path)


def test_one_file_is_a_task(known: Path) -> None:
    assert load_task_file(known / "sts17" / "track1.ar-ar.tsv").name == "track1.ar-ar"
    with pytest.raises(UserError, match=r"none\.tsv is no file"):
        load_task_file(known / "none.tsv")


def test_task_refuses_a_nan_score() -> None:
    with pytest.raises(UserError, match="pair 2: score nan"):
        StsTask("x", "sts", "en-en", ("a", "b"), ("a", "b"), (1.0, float("nan")), (0.0, 5.0))


@pytest.mark.skipif(not (DATA / "sts" / "en").is_dir(), reason=f"no graded pairs under {DATA} (set LACOS_DATA)")
def test_shared_data_has_the_counts_of_its_readme() -> None:
    counts = {task.name: len(task.scores) for task in load_tasks(DATA)}
    english = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186}
    english |= {"STSBenchmark": 1379, "SICK-R": 9927}
    tracks = dict.fromkeys(("ar-ar", "ar-en", "es-es", "es-en", "en-en", "tr-en"), 250)
    assert counts == english | {f"STS17.{languages}": 250 for languages in tracks}
    multi = load_tasks(DATA, names=["STSb-multi.zh", "STSb-multi.en-fr", "STSb-multi-dev.de", "STSBenchmark-dev"])
    assert [len(task.scores) for task in multi] == [1379, 1379, 1500, 1500]


class _StandInTask:
    """What `load_mteb_task` asks of an mteb STS task, without the network."""

    column_names = ("sentence1", "sentence2")
    min_score, max_score, eval_splits, is_aggregate = 0, 5, ("test",), False

    def __init__(self, name: str, subsets: list[str], languages: list[str]) -> None:
        self.metadata = SimpleNamespace(name=name, languages=languages)
        self.hf_subsets = subsets

    def load_data(self) -> None:
        rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1, 5]}
        if self.metadata.name == "Unreachable":
            raise ConnectionError("Couldn't reach the Hub")
        self.dataset = (
            {"test": rows} if self.hf_subsets == ["default"] else {s: {"test": rows} for s in self.hf_subsets}
        )


@pytest.fixture
def stand_in_mteb(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {
        "STS12": _StandInTask("STS12", ["default"], ["eng"]),
        "STS17": _StandInTask("STS17", ["en-en", "en-ar"], ["eng", "ara"]),
        "STS22.v2": _StandInTask("STS22.v2", ["fr"], ["fra"]),
        "STSBenchmarkMultilingualSTS": _StandInTask("STSBenchmarkMultilingualSTS", ["en", "de"], ["eng", "deu"]),
        "Unreachable": _StandInTask("Unreachable", ["default"], ["eng"]),
        "Retrieval": object(),
    }

    def get_task(name: str) -> object:
        if name not in tasks:
            raise KeyError(f"KeyError: '{name}' not found.")
        return tasks[name]

    module = SimpleNamespace(get_task=get_task, abstasks=SimpleNamespace(sts=SimpleNamespace(AbsTaskSTS=_StandInTask)))
    monkeypatch.setattr(sts, "import_mteb", lambda: module)


@pytest.mark.usefixtures("stand_in_mteb")
def test_mteb_tasks_become_one_task_per_subset() -> None:
    (sts12,) = load_mteb_task("STS12")
    assert (sts12.name, sts12.group, sts12.languages, sts12.unit_scores) == ("STS12", "sts", "en-en", [0.2, 1.0])
    assert [(t.name, t.group, t.languages) for t in load_mteb_task("STS17")] == [
        ("STS17.en-en", "xsts", "en-en"),
        ("STS17.en-ar", "xsts", "en-ar"),
    ]
    assert [task.name for task in load_mteb_task("STS17.en-ar")] == ["STS17.en-ar"]
    assert [(t.name, t.group, t.languages) for t in load_mteb_task("STS22.v2")] == [("STS22.v2.fr", "xsts", "fr-fr")]


@pytest.mark.usefixtures("stand_in_mteb")
def test_a_subset_in_english_is_english_and_a_dev_split_is_no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data(task: _StandInTask) -> None:
        rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1, 5]}
        task.dataset = {subset: {"dev": rows, "test": rows} for subset in task.hf_subsets}

    monkeypatch.setattr(_StandInTask, "load_data", load_data)
    monkeypatch.setattr(_StandInTask, "eval_splits", ("dev", "test"))
    assert [(t.name, t.group, t.languages) for t in load_mteb_task("STSBenchmarkMultilingualSTS")] == [
        ("STSBenchmarkMultilingualSTS.en.test", "sts", "en-en"),
        ("STSBenchmarkMultilingualSTS.de.test", "xsts", "de-de"),
    ]


@pytest.mark.usefixtures("stand_in_mteb")
@pytest.mark.parametrize(("score", "said"), [(None, "a score that is no number"), (float("nan"), "pair 2: score nan")])
def test_a_score_of_mteb_that_is_no_number(monkeypatch: pytest.MonkeyPatch, score: float | None, said: str) -> None:
    def load_data(task: _StandInTask) -> None:
        task.dataset = {"test": {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [1, score]}}

    monkeypatch.setattr(_StandInTask, "load_data", load_data)
    with pytest.raises(UserError, match=f"STS12.*{said}"):
        load_mteb_task("STS12")


@pytest.mark.usefixtures("stand_in_mteb")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STS99", "unknown mteb task 'STS99'"),
        ("STS17.xx-yy", "no subset 'xx-yy': choose from en-en, en-ar"),
        ("Retrieval", "not a set of graded pairs"),
        ("Unreachable", r"could not be fetched \(ConnectionError.*--data"),
    ],
)
def test_bad_mteb_tasks_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_mteb_task(name)


def test_missing_mteb_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match=r"pip install 'lacos_st\[mteb\]'"):
        load_mteb_task("STS12")
