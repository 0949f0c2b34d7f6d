"""The run of BLOOM-7b1, on a small shape: every phase works, targets can be missed, and no file stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import bloom_7b1, rows, synthetic  # noqa: E402
from benchmarks.loading import write_checkpoint  # noqa: E402
from benchmarks.synthetic import QUICK  # noqa: E402
from lacos_st.recipe.published import published_shape  # noqa: E402
from lacos_st.recipe.shapes import shape_of  # noqa: E402


def test_the_shape_is_the_published_one() -> None:
    assert shape_of(bloom_7b1.FULL.config).parameters == published_shape("bloom-7b1").parameters == 7_069_016_064


def test_shards_are_seeded_bounded_and_complete(tmp_path: Path) -> None:
    limit = 400_000
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        sizes = write_checkpoint(folder, QUICK, shard_bytes=limit)
    tensors: list[dict[str, torch.Tensor]] = [{}, {}]
    for found, folder in zip(tensors, folders, strict=True):
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="pt") as opened:
                part = {name: opened.get_tensor(name) for name in opened.keys()}
            assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= limit
            found.update(part)
    assert sum(t.nbytes for t in tensors[0].values()) == sizes["checkpoint_bytes"]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    first, second = (tensors[0][f"h.{layer}.mlp.dense_h_to_4h.weight"] for layer in (0, 1))
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_the_phases(tmp_path: Path) -> None:
    """In this process; what is saved comes back bit-equal."""
    base = tmp_path / "base"
    base.mkdir()
    write_checkpoint(base, QUICK)
    synthetic.tokenizer(QUICK.words).save_pretrained(base)
    first = bloom_7b1.first_run(tmp_path, QUICK, "cpu")
    second = bloom_7b1.second_run(tmp_path, QUICK, "cpu")
    assert second["bit_equal"]
    merged = bloom_7b1.merge_run(tmp_path, QUICK, "cpu")
    assert set(bloom_7b1.PHASES) == set(first["phases"]) | set(second["phases"]) | set(merged["phases"])
    assert merged["merged_cosine"] > 0.999
    assert len(first["losses"]) == bloom_7b1.STEPS
    assert first["trained_difference"] > 1e-4  # or the comparison would say nothing of the adapter
    embeddings = torch.load(tmp_path / "embeddings.pt")
    torch.save(embeddings + 1e-6, tmp_path / "embeddings.pt")
    assert not bloom_7b1.second_run(tmp_path, QUICK, "cpu")["bit_equal"]


@pytest.mark.slow
def test_a_quick_run_works_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # it remembers the folder otherwise
    row = bloom_7b1.measure(quick=True, device="cpu")
    assert list(tmp_path.iterdir()) == []
    assert set(bloom_7b1.PHASES) < set(row["phases"])
    assert all(bloom_7b1.verdicts(row).values())
    row["phases"]["load"]["peak_resident_bytes"] = 9 * bloom_7b1.GIB
    row["bit_equal"] = False
    assert list(bloom_7b1.verdicts(row).values()) == [False, True, True, True, False]
    assert bloom_7b1.report(row).count("MISSED") == 2


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_file(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.bloom_7b1", "--quick"]
    run = subprocess.Popen(
        command, cwd=rows.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("bloom-7b1-*/base/tokenizer.json")):
            assert run.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        run.kill()
    assert list(tmp_path.iterdir()) == []
