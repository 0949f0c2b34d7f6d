"""The quick form of `python -m benchmarks.fuzz`: hypothesis chooses the cases, always the same ones."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lacos_st.corpus import shards
from lacos_st.models import load_model

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed
from benchmarks import fuzz, mutations

EXAMPLES = {"config": 15, "header": 10, "data": 60, "arguments": 6}
QUICK = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Drill]:
    root = tmp_path_factory.mktemp("fuzz")
    logging.disable(logging.WARNING)  # hundreds of malformed rows
    yield fuzz.Drill(root / "drill", Path(tiny.save(root / "base")))
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_a_good_model_or_a_clear_error(drill: fuzz.Drill, kind: str) -> None:
    seen = set()

    @given(st.integers(0, 2**32))
    @settings(max_examples=EXAMPLES[kind], **QUICK)
    def run(seed: int) -> None:
        seen.add(fuzz.run_case(drill, kind, seed))

    run()
    assert "refused" in seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_hundreds_of_cases(drill: fuzz.Drill, kind: str) -> None:
    for seed in range(round(200 * fuzz.SHARE[kind])):
        fuzz.run_case(drill, kind, 10**6 + seed)


def test_another_model_is_a_defect(drill: fuzz.Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seal, a changed config is loaded as if nothing had happened: the drill has to notice."""
    for place in ("checkpoint", "pooling"):
        monkeypatch.setattr(f"lacos_st.{place}.check_seal", lambda folder, required: None)

    def all_cases() -> None:
        for seed in range(200):
            fuzz.run_case(drill, "config", seed)

    with pytest.raises(fuzz.Defect, match="another model was loaded"):
        all_cases()


def test_the_lines_that_are_changed_run_as_they_are(drill: fuzz.Drill) -> None:
    for command in mutations.VALUES:
        line = next(list(line) for line in fuzz.LINES if line[0] == command)
        assert drill.run_line([*line, *["--max-steps", "1"] * (command == "train")]) == f"{command}: ran"
    assert {line[0] for line in fuzz.LINES} == mutations.VALUES.keys() == mutations.SWITCHES.keys()


def test_shards_that_lack_a_row_are_a_defect(drill: fuzz.Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["encode", "base", "pairs.tsv", "out", "--column", "anchor", "--device", "cpu"]
    for form in ("npy", "parquet"):
        assert drill.run_line([*line, "--format", form]) == "encode: ran"
    record = shards.ShardFormat.record
    monkeypatch.setattr(shards.ShardFormat, "record", lambda self, place, row: record(self, max(place, 1), row))
    for form in ("npy", "parquet"):
        with pytest.raises(fuzz.Defect, match="status 0 without what it was to make"):
            drill.run_line([*line, "--format", form])


def test_errors_of_others_and_hangs_are_defects(drill: fuzz.Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(rng: Random) -> str:
        raise KeyError("x")

    monkeypatch.setattr(drill, "data", crash)
    with pytest.raises(fuzz.Defect, match=r"data 7: KeyError: 'x'"):
        fuzz.run_case(drill, "data", 7)

    def hang(rng: Random) -> str:
        while True:
            pass

    monkeypatch.setattr(drill, "data", hang)
    monkeypatch.setattr(fuzz, "CPU_LIMIT_SECONDS", 0.2)
    with pytest.raises(fuzz.Defect, match="a hang"):
        fuzz.run_case(drill, "data", 7)
    with pytest.raises(fuzz.Defect, match="without a message"):
        fuzz._refused(ValueError(""))


def test_what_was_damaged_is_put_back(drill: fuzz.Drill) -> None:
    for name in ("whole", "adapter"):
        model = load_model(str(drill.root / name), device="cpu")
        assert (model.encode(fuzz.SENTENCES) == drill.models[name][0]).all()


@given(st.binary(max_size=50), st.integers(0, 2**32))
@settings(max_examples=50, **QUICK)
def test_mutations_are_the_same_for_the_same_seed(data: bytes, seed: int) -> None:
    assert mutations.mutate_bytes(Random(seed), data) == mutations.mutate_bytes(Random(seed), data)
    text = b'{"a": [1, 2.5, {"b": "x"}], "c": true}'
    assert mutations.mutate_json(Random(seed), text) == mutations.mutate_json(Random(seed), text)
