"""The table of runs: a round trip, appending from several processes, and every way in which a file can be wrong."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import sweeps
from hypothesis import given
from hypothesis import strategies as st

from lacos_st.errors import UserError
from lacos_st.recipe.runs_table import (
    COLUMNS,
    Run,
    append_run,
    fittable,
    read_runs,
    read_setting,
    rows_sha256,
    show_setting,
)

RUN = sweeps.sweep(sizes=(1000,), budgets=(1e9,), seeds=1)[0]


def write(path: Path, *runs: Run) -> Path:
    for run in runs:
        append_run(path, run)
    return path


def test_round_trip(tmp_path: Path) -> None:
    unreached = replace(RUN, seed=1, loss=None, reached=False)
    odd = replace(RUN, seed=2, family='a, "b"', sts_dev=-3.25, seconds=0.0, tokens=1 / 3 * 5e5)
    runs = [RUN, unreached, odd]
    assert read_runs(write(tmp_path / "sub" / "runs.csv", *runs)) == runs
    assert (
        (tmp_path / "sub" / "runs.csv").read_text().startswith("family,N,N_F,N_B,N_U,D,method,setting,S,budget_flops,")
    )


@given(
    size=st.integers(1, 10**12),
    part=st.floats(1e-9, 1.0),
    loss=st.floats(1e-300, 1e300),
    text=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool),
)
def test_any_run_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, size: int, part: float, loss: float, text: str
) -> None:
    trained = max(1, int(size * part))
    tokens = 1e15 / (2 * size + 4 * trained)
    run = Run(text, size, size, trained, trained, tokens, "freeze", "lr=1", 1e15, loss, None, None, 0, text)
    assert read_runs(write(tmp_path_factory.mktemp("runs") / "runs.csv", run)) == [run]


def test_a_row_is_added_whatever_the_file_ends_with(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", RUN)
    path.write_text("\ufeff" + path.read_text().rstrip("\n").replace("\n", ",note\n", 1) + ",mine", encoding="utf-8")
    append_run(path, replace(RUN, seed=1))  # another column, no newline at the end, and a byte-order mark
    assert read_runs(path) == [RUN, replace(RUN, seed=1)]
    assert path.read_text(encoding="utf-8-sig").splitlines()[1].endswith(",mine")


def _append_many(arguments: tuple[Path, int]) -> None:
    path, start = arguments
    for number in range(start, start + 50):
        append_run(path, replace(RUN, seed=number))


def test_processes_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(_append_many, [(path, 0), (path, 50), (path, 100)])
    assert sorted(run.seed for run in read_runs(path)) == list(range(150))


def test_a_table_with_other_columns_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column family, N, "):
        append_run(path, RUN)
    assert path.read_text() == "a,b\n1,2\n"


def cells(run: Run = RUN, **changes: str) -> str:
    values = {name: getattr(run, field) for name, field in COLUMNS.items()}
    values |= {"reached": "yes", "sts_dev": "", "seconds": ""} | changes
    return ",".join(map(str, values.values()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "nan"}, "loss is nan: a run that diverged .* set reached to no"),
        ({"loss": "inf"}, "loss is inf"),
        ({"loss": ""}, "loss is '': expected a number"),
        ({"loss": "-1"}, "loss is -1: expected a number above 0"),
        ({"N": "1e3.5"}, "N is '1e3.5': expected a number"),
        ({"N": "1000.5"}, "expected a whole number"),
        ({"D": "nan"}, "D is nan: expected a finite number"),
        ({"method": "sbert"}, "method is 'sbert': expected full, freeze, bias, lora, lacos"),
        ({"family": ""}, "family is '': expected a name"),
        ({"reached": "True"}, "reached is 'True': expected yes or no"),
        ({"S": "0.5"}, "S is 0.5, but N_U / N_F is 1"),
        ({"D": str(RUN.tokens / 2)}, "is 5e\\+08 FLOP, but budget_flops is 1e\\+09: D counts the tokens of both sides"),
    ],
)
def test_a_cell_that_cannot_be(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(COLUMNS), cells(seed="7"), "", cells(**changes)]) + "\n")
    with pytest.raises(UserError, match=rf"runs\.csv, line 4: .*{said}"):
        read_runs(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: there is no column family, .*found: nothing"),
        (",".join(name for name in COLUMNS if name not in ("N_B", "loss")).encode(), "there is no column N_B, loss "),
        (f"{','.join(COLUMNS)}\n{cells()}\ntoy,1000,10".encode(), "line 3: 3 cells, but 16 columns"),
        (f"{','.join(COLUMNS)}\n{cells()}\n{cells()}\n".encode(), "line 3: the same run as line 2 .full"),
        (f'{",".join(COLUMNS)}\n"toy'.encode(), "line 2: no CSV"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "runs.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_runs(path)


def test_a_diverged_run_may_stand_in_the_table_as_unreached(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([",".join(COLUMNS), cells(loss="nan", reached="no", D="5")]))
    (run,) = read_runs(path)
    assert (run.loss, run.reached) == (None, False)


def test_what_can_be_fitted() -> None:
    full = sweeps.sweep(sizes=(1000, 2000), budgets=(1e9, 2e9), seeds=1)
    missed = [replace(run, reached=False, seed=5) for run in full]
    freeze = [replace(run, method="freeze") for run in full]
    assert fittable([*missed, *freeze, *full]) == {"full": full, "freeze": freeze}
    assert fittable([*full, *freeze], methods=["freeze"]) == {"freeze": freeze}
    other = [replace(run, family="other") for run in freeze]
    assert fittable([*full, *other], family="other") == {"freeze": other}


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({}, {"methods": ["lora"]}, "no runs of method 'lora': it has full"),
        ({}, {"family": "bloom"}, "no family 'bloom': it has toy"),
        ({"family": "other"}, {}, r"several families \(other, toy\).*--family"),
        ({"method": "bias"}, {}, r"x.csv: the 1 runs of bias .* have 1 size \(N\): a law needs two .*--methods"),
        (
            {"reached": False, "method": "bias"},
            {},
            r"0 runs of bias .* have 0 size \(N\); 1 did not reach their budget",
        ),
        ({"method": "bias", "parameters": 2000}, {"methods": ["bias"]}, "have 1 size"),
    ],
)
def test_what_cannot_be_fitted(change: dict[str, object], options: dict[str, object], said: str) -> None:
    runs = sweeps.sweep(sizes=(1000, 2000), budgets=(1e9, 2e9), seeds=1)
    with pytest.raises(UserError, match=said):
        fittable([*runs, replace(runs[0], **change)], source="x.csv", **options)  # type: ignore[arg-type]


def test_one_budget_is_no_law() -> None:
    with pytest.raises(UserError, match=r"have 1 budget \(budget_flops\): a law needs two"):
        fittable(sweeps.sweep(sizes=(1000, 2000), budgets=(1e9,)))
    with pytest.raises(UserError, match="holds no runs: run a sweep first"):
        fittable([])


def test_the_hash_is_of_the_rows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.csv", RUN)
    before = rows_sha256(read_runs(path))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert rows_sha256(read_runs(path)) == before == rows_sha256([RUN])
    assert rows_sha256([replace(RUN, loss=1.0)]) != before


def test_settings() -> None:
    assert show_setting({"rank": 8, "lr": 1e-3}) == "lr=0.001 rank=8"
    assert read_setting("lr=0.001 rank=8") == {"lr": 1e-3, "rank": 8.0}
    with pytest.raises(UserError, match="expected name=number"):
        read_setting("rank 8")
