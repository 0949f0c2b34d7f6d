"""`benchmarks.gpu` where there is no GPU: its parts on tiny shapes, its processes, its tables."""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import contenders, gpu, gpu_kernels, gpu_models, gpu_report, gpu_ways, rows  # noqa: E402
from benchmarks.gpu import Part  # noqa: E402
from benchmarks.gpu_scale import TINY, Scale  # noqa: E402
from lacos_st.linear import Embedding8bit, Linear8bit  # noqa: E402

CPU = Scale("cpu", quick=True)


def good(scale: Scale, *, lines: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(lines):
        yield f"line {number}", {"value": number}


def bad(scale: Scale) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "line 0", {"value": 0}
    raise MemoryError("nothing left")


def hanging(scale: Scale) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "line 0", {"value": 0}
    while True:
        torch.rand(10)


def dying(scale: Scale) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "line 0", {"value": 0}
    sys.exit(3)


# Models


@pytest.mark.parametrize("way", gpu_models.LABELS)
def test_models_are_made_in_place_and_only_adapters_train(way: str, tmp_path: Path) -> None:
    with gpu_ways.folders(CPU.sizes[0]) as (folder, _):
        model = gpu_models.encoder(way, TINY, folder, device="cpu", dtype=torch.float32)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert not [name for name, tensor in tensors if tensor.is_meta]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = contenders.adapters(model)
    assert len(adapters) == len(trained) == 2 * (2 * TINY.layers + 1)
    assert all(".lora_" in name for name in trained)
    stored = [type(layer).__name__ for layer in model.modules()]
    quantised = {"ours-8bit": "Linear8bit", "stock-8bit": "Linear8bitLt", "stock-nf4": "Linear4bit"}.get(way, "Linear")
    assert stored.count(quantised) >= 4 * TINY.layers
    assert stored.count("Embedding8bit") == (way == "ours-8bit")
    assert all(math.isfinite(value) for value in model.eval().encode("000 001 002").tolist())


def test_stored_weights_have_the_spread_of_the_float_ones() -> None:
    model = gpu_models.base("ours-8bit", TINY, device="cpu", dtype=torch.bfloat16, host_embedding=True)
    for layer in model.modules():
        if isinstance(layer, Linear8bit | Embedding8bit):
            assert float(layer.dequantized().float().std()) == pytest.approx(gpu_models.WEIGHT_STD, rel=0.05)
            assert layer.on_host == isinstance(layer, Embedding8bit)
            assert layer.compute_dtype_like.dtype == torch.bfloat16


def test_sizes_are_the_published_ones() -> None:
    from lacos_st.recipe.published import PUBLISHED

    for size in gpu_models.SIZES:
        _, expected = PUBLISHED[f"bloom-{size.name}"]
        found = size.shape.config
        assert {key: getattr(found, key) for key in expected} == expected


# Parts


def test_a_small_bloom_is_stocks() -> None:
    found = dict(gpu_kernels.correctness(CPU))
    assert found["float32"]["difference"] < 1e-5
    assert found["8-bit, float32"]["difference"] < 1e-5
    assert 1e-4 < found["bf16"]["difference"] < 2e-2
    assert 1e-4 < found["8-bit, bf16"]["difference"] < 2e-2


def test_parts_below_a_model() -> None:
    assert dict(gpu_kernels.products(CPU))["tiny"]["tflops"] > 0
    assert all(line["gb_per_second"] > 0 for _, line in gpu_kernels.dequantization(CPU))
    attention = dict(gpu_kernels.attention(CPU))
    assert attention["chosen"]["kernel"] == "torch CPU"
    assert attention["torch varlen"] == {"problem": "is for CUDA"}
    assert attention["torch SDPA"]["difference"] == 0
    assert attention["torch SDPA"]["long_batch_ms"] > 0


@pytest.mark.parametrize("way", ["stock-bf16", "ours-8bit"])
def test_throughput(way: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = dict(gpu_ways.throughput(CPU, way))["tiny"]
    assert found["peak_gib"] is None
    assert found["step_tflops"] > 0 and found["encode_tflops"] > 0
    assert found["sentences_per_second"] == pytest.approx(CPU.sentences / found["encode_seconds"])


def test_memory_runs_its_three_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[bool, bool]] = []

    class Spy(gpu_ways.Steps):
        def __init__(self, model: Any, *args: Any, **options: Any) -> None:
            super().__init__(model, *args, **options)
            backbone = model[0].model
            made.append(
                (
                    backbone.h[0].gradient_checkpointing,
                    any(getattr(layer, "on_host", False) for layer in backbone.modules()),
                )
            )

    monkeypatch.setattr(gpu_ways, "Steps", Spy)
    assert all(line["step_seconds"] > 0 for _, line in gpu_ways.memory(CPU))
    assert made == [(False, False), (True, False), (True, True)]


def test_out_of_memory_loses_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise torch.cuda.OutOfMemoryError("tried to allocate 20 GiB\nmore")

    monkeypatch.setattr(gpu_models, "encoder", full)
    expected = "out of memory: tried to allocate 20 GiB"
    assert dict(gpu_ways.throughput(CPU, "ours-8bit")) == {"tiny": {"problem": expected}}
    assert [line["problem"] for _, line in gpu_ways.memory(CPU)] == [expected] * 3


# Processes


def test_a_failing_part_keeps_its_lines() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    gpu._serve(theirs, Part("bad", f"{__name__}:bad", 1), CPU)
    assert ours.recv() == ("line 0", {"value": 0})
    assert ours.recv() == ("problem", "MemoryError: nothing left")
    assert ours.recv() is None


@pytest.mark.thorough
@pytest.mark.slow
def test_parts_have_processes_and_time_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"line 0": {"value": 0}}
    functions = {"good": {"lines": 2}, "bad": {}, "hanging": {}, "dying": {}}
    parts = [Part(name, f"{__name__}:{name}", 60, arguments) for name, arguments in functions.items()]
    parts[2] = Part("hanging", f"{__name__}:hanging", 20)
    late = gpu.measure(CPU, parts[:1], budget=0.5)
    assert late == {"good": {"problem": "no time left"}}
    found = gpu.measure(CPU, parts, budget=300)
    assert found["good"] == line | {"line 1": {"value": 1}}
    assert found["bad"] == line | {"problem": "MemoryError: nothing left"}
    assert found["hanging"] == line | {"problem": "not done after 20 s"}
    assert found["dying"] == line | {"problem": "the process ended with code 3"}
    assert "hanging: " in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) is None
    assert capsys.readouterr().out == "benchmarks.gpu: skipped, as there is no CUDA device here\n"


def test_all_parts_fit_eight_minutes_and_exist() -> None:
    assert gpu.BUDGET_SECONDS < 480
    for part in gpu.PARTS:
        module, function = part.function.split(":")
        assert callable(getattr(sys.modules[module], function))
    assert {part.arguments.get("way") for part in gpu.PARTS} - {None} == set(gpu_models.LABELS)


# Tables


def way(step: float) -> dict[str, Any]:
    return {
        "7b1": {
            "step_seconds": step,
            "step_tflops": 50 / step,
            "peak_gib": 10.0,
            "sentences_per_second": 1000.0,
            "encode_tflops": 300.0,
        }
    }


def test_targets_are_met_missed_or_not_measured() -> None:
    found: dict[str, Any] = {
        "products": {"7b1": {"tflops": 600.0}},
        "ours-8bit": way(0.1),
        "ours-bf16": way(0.08),
        "stock-8bit": way(0.4),
        "memory": {
            "checkpointing": {"peak_gib": 11.5},
            "checkpointing, embedding on the host": {"problem": "out of memory"},
        },
    }
    lines = gpu_report.targets_table(found).splitlines()[2:]
    assert [line.split(" | ")[2:] for line in lines] == [
        ["11.50", "met |"],
        ["-", "not measured |"],
        ["0.83", "met |"],
        ["4.00", "met |"],
        ["1.25", "missed |"],
        ["-", "not measured |"],
    ]
    text = gpu_report.report(found, ["7b1"], gpu_models.LABELS)
    assert "| ours, 8-bit | 100.0 ms | 500.0 | 0.83 | 4.00x | 10.00 | 1000 | 0.50 |" in text.splitlines()
    assert "| stock + NF4 + peft | not measured | - | - | - | - | - | - |" in text.splitlines()
    assert "| checkpointing | peak_gib 11.5 |" in text.splitlines()


def test_nothing_measured_is_no_error() -> None:
    assert "not measured" in gpu_report.report({}, ["560m"], gpu_models.LABELS)


def test_a_row_without_git_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_git(*args: Any, **options: Any) -> None:
        raise FileNotFoundError("git")

    class Card:
        total_memory = 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(rows, "device_name", lambda: "a card")
    monkeypatch.setattr(rows, "append", no_git)
    monkeypatch.setattr(gpu, "measure", lambda scale, budget: {"products": {"problem": "none"}})
    row = gpu.main(["--quick"])
    assert row == {"quick": True, "memory_gib": 1.0, "products": {"problem": "none"}}
    assert "could not be appended" in capsys.readouterr().out
