"""The prediction of memory: by hand, on what training keeps for its backward, and on a measured run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from lacos_st import quantizer
from lacos_st.errors import UserError
from lacos_st.methods import build_model
from lacos_st.recipe import machine, memory
from lacos_st.recipe.activations import kept_per_token
from lacos_st.recipe.check import HELD, checked, job_of
from lacos_st.recipe.fit import advice, smaller, table
from lacos_st.recipe.job import Job
from lacos_st.recipe.memory import largest_batch, predict
from lacos_st.recipe.published import published_shape
from lacos_st.recipe.shapes import shape_of
from lacos_st.recipe.units import parse_bytes, show_bytes
from lacos_st.settings import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

MIB = 2**20
GIB = 2**30
LAYERS = 3
SENTENCES, LENGTH = 6, 24


def configuration(architecture: str, *, layers: int = LAYERS) -> PreTrainedConfig:
    sizes: dict[str, Any] = {
        "vocab_size": tiny.VOCABULARY,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
    }
    if architecture != "bloom":
        sizes |= {"intermediate_size": 384, "max_position_embeddings": 64}
    if architecture in ("llama", "qwen3"):
        sizes |= {"num_key_value_heads": 4, "head_dim": 32}
    return AutoConfig.for_model(architecture, **sizes)


def kept_in_fact(config: PreTrainedConfig, folder: Path, method: str, **options: Any) -> int:
    """Bytes that autograd saves in a forward pass, weights left out."""
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    run = {"base": str(folder), "data": "-", "output": "-", "method": method, "block_size": 64, "cpu": True, **options}
    model = build_model(TrainConfig.from_mapping(run).resolved()).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    steps = torch.arange(0, SENTENCES * LENGTH + 1, LENGTH, dtype=torch.int32)
    ids = torch.randint(0, tiny.VOCABULARY, (1, SENTENCES * LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model[0]({"input_ids": ids, "cu_seq_lens_q": steps})
    assert result["token_embeddings"].requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("architecture", ["bloom", "gpt_neox", "llama", "qwen3", "bert"])
@pytest.mark.parametrize("method", ["full", "lora", "lacos", "freeze", "bias"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_block_keeps(architecture: str, method: str, checkpointing: bool, tmp_path: Path) -> None:
    """The difference that one more block makes."""
    if method == "bias" and not shape_of(configuration(architecture)).biases:
        pytest.skip(f"{architecture} has no biases")
    options: dict[str, Any] = {"gradient_checkpointing": checkpointing} | (
        {"frozen_blocks": 1} if method == "freeze" else {}
    )
    saved = []
    for layers in (LAYERS, LAYERS + 1):
        config = configuration(architecture, layers=layers)
        saved.append(kept_in_fact(config, tmp_path / str(layers), method, **options))
    job = Job(method=method, length=LENGTH, checkpointing=checkpointing, block_size=64)  # type: ignore[arg-type]
    expected = kept_per_token(shape_of(configuration(architecture)), job)
    assert (saved[1] - saved[0]) / 4 / SENTENCES / LENGTH == pytest.approx(expected, rel=0.03)


def test_weights_by_hand() -> None:
    """bloom-7b1: 7,068,450,816 in matrices and table, one float per 256 of them; the rest is 30 layers of vectors."""
    shape = published_shape("bloom-7b1")
    matrices = 30 * 12 * 4096**2 + 250_880 * 4096
    vectors = 30 * (9 + 4) * 4096 + 4 * 4096
    memory = predict(shape, Job(method="lacos"))
    assert memory.weights == matrices + matrices // 256 * 4 + vectors * 4
    assert predict(shape, Job(method="lora", dtype="bfloat16")).weights == (matrices + vectors) * 2
    moved = Job(method="lacos", device="cuda", embedding_device="cpu")
    assert memory.weights - predict(shape, moved).weights == 250_880 * 4096 * 260 // 256


def test_adapters_and_optimiser_by_hand() -> None:
    """bloom-560m, rank 4: 24 layers of 2·5·1024 each side of the feed-forward part, the table's 250,880 and 1024."""
    shape = published_shape("bloom-560m")
    adapters = 4 * (24 * 2 * 5 * 1024 + 250_880 + 1024)
    memory = predict(shape, Job(method="lacos", rank=4))
    assert memory.adapters == memory.gradients == adapters * 4
    assert memory.optimizer == 2 * (adapters + adapters // 256 * 4)  # each of its tensors has 4,096 or more
    small = predict(shape, Job(method="lacos", rank=1))
    in_32bit = 24 * 2 * 1024 + 1024  # the sides of 1,024
    in_8bit = adapters // 4 - in_32bit
    assert small.optimizer == 2 * (in_8bit + in_8bit // 256 * 4) + 8 * in_32bit
    assert predict(shape, Job(method="lacos", optimizer="adamw")).optimizer == adapters * 8
    assert predict(shape, Job(method="lacos", adapter_dtype="bfloat16")).gradients == adapters * 2


def test_state_of_full_training_is_32_bit_for_the_table_only() -> None:
    shape = published_shape("pythia-70m")
    matrices = 6 * 12 * 512**2
    memory = predict(shape, Job(method="full"))
    assert memory.gradients == memory.weights == shape.parameters * 4
    state = 2 * (matrices + matrices // 256 * 4) + 8 * (shape.parameters - matrices)
    assert memory.optimizer == pytest.approx(state, rel=1e-3)


def test_the_largest_batch_is_the_largest() -> None:
    shape = published_shape("bloom-560m")
    for job in (Job(method="lacos"), Job(method="encode"), Job(method="lora", checkpointing=True)):
        size = largest_batch(shape, job, 8 * GIB)
        assert predict(shape, replace(job, batch_size=size)).peak <= 8 * GIB
        assert predict(shape, replace(job, batch_size=size + 1)).peak > 8 * GIB
    assert largest_batch(shape, Job(method="full"), GIB) == 0


def test_what_makes_a_run_smaller() -> None:
    shape = published_shape("bloom-560m")
    job = Job(method="lacos", batch_size=256)
    plain = predict(shape, job).peak
    assert smaller(shape, job, plain) == job
    lighter = replace(job, checkpointing=True)
    assert smaller(shape, job, plain - 1) == lighter
    cached = smaller(shape, job, predict(shape, lighter).peak - 1)
    assert cached is not None
    assert (cached.checkpointing, cached.mini_batch) == (True, 128) or cached.mini_batch is not None
    assert predict(shape, cached).peak < predict(shape, lighter).peak
    assert smaller(shape, job, predict(shape, job).weights) is None
    assert smaller(shape, replace(job, method="sbert"), GIB) is None  # the softmax loss is not cached


def test_advice_names_what_helps_and_only_that() -> None:
    shape = published_shape("bloom-7b1")
    job = Job(method="lacos", batch_size=64, device="cuda", dtype="bfloat16")
    budget = predict(shape, job).peak - 1
    text = "; ".join(advice(shape, job, budget))
    for part in ("gradient_checkpointing", 'embedding_device="cpu"', "a batch of ", "max_seq_length"):
        assert part in text
    assert "lacos" not in text
    assert "method lacos" in "; ".join(advice(shape, replace(job, method="lora"), budget))
    assert advice(shape, job, 6 * GIB) == []


def test_the_table_has_a_row_for_each_way() -> None:
    lines = table(published_shape("bloom-560m"), Job(method="lacos"), budget_bytes=2 * GIB)
    assert [line.split("  ")[0] for line in lines[1:15]] == [
        "encode, 8-bit",
        "encode, float32",
        "lacos",
        "lacos, checkpointing",
        "lora",
        "lora, checkpointing",
        "full",
        "full, checkpointing",
        "freeze, 0 blocks",
        "freeze, 0 blocks, checkpointing",
        "bias",
        "bias, checkpointing",
        "sbert",
        "sbert, checkpointing",
    ]
    assert lines[0].endswith("largest batch")
    assert lines[7].endswith("none")
    assert any(line.startswith("full at batch 32 needs") for line in lines[15:])


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), ("16GB", 16 * 10**9), ("800 MiB", 800 * 2**20), ("1.5gib", 3 * 2**29), ("512B", 512)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["16", "GiB", "16 Gigs", "-1GiB", "0GiB", "1,5GiB", ""])
def test_sizes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="expected a number and a unit"):
        parse_bytes(text)


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"length": 0.5}, {"dtype": "int8"}, {"method": "magic"}])
def test_a_job_that_makes_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        Job(**{"method": "lacos", **changes})


def test_a_block_that_does_not_divide_a_width() -> None:
    with pytest.raises(UserError, match="4096"):
        predict(published_shape("bloom-1b1"), Job(method="lacos", block_size=4096))


def config_of(**options: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"base": "b", "data": "d", "output": "o", "batch_size": 256, **options}).resolved()


def test_a_run_that_does_not_fit_is_refused_fitted_or_forced(caplog: pytest.LogCaptureFixture) -> None:
    shape = published_shape("bloom-560m")
    config = config_of()
    peak = predict(shape, job_of(config, [[20], [30]], device="cpu")).peak
    caplog.set_level("INFO", logger="lacos_st.recipe")
    assert checked(config, shape, [[20], [30]], device="cpu", available=peak) == config
    assert show_bytes(peak) in caplog.text
    assert "memory is short" in caplog.text
    caplog.clear()
    assert checked(config, shape, [[20], [30]], device="cpu", available=int(peak * HELD) + 1) == config
    assert "memory is short" not in caplog.text
    assert checked(config, shape, [[20], [30]], device="cpu", available=None) == config
    with pytest.raises(UserError, match=r"gradient_checkpointing .*--fit .*--force"):
        checked(config, shape, [[20], [30]], device="cpu", available=peak - 1)
    forced = config_of(force=True)
    assert checked(forced, shape, [[20], [30]], device="cpu", available=peak - 1) == forced
    fitted = checked(config_of(fit=True), shape, [[20], [30]], device="cpu", available=peak - 1)
    assert fitted.gradient_checkpointing
    with pytest.raises(UserError, match="a smaller base"):
        checked(config_of(fit=True), shape, [[20], [30]], device="cpu", available=MIB)


def test_an_embedding_in_host_memory_is_not_counted_on_the_gpu() -> None:
    shape = published_shape("bloom-560m")
    here, there = (
        predict(shape, job_of(config_of(embedding_device=device), [[20], [30]], device="cuda"))
        for device in (None, "cpu")
    )
    assert here.weights - there.weights > 200 * MIB  # 250,880 rows of 1024 in 8 bits are 245 MiB


def test_a_long_batch_is_what_counts() -> None:
    config = config_of()
    even, mixed = (job_of(config, sample, device="cpu") for sample in ([[20]] * 2, [[1], [39]]))
    assert even.length == 20
    assert mixed.length == pytest.approx(20 + 3 * 19 / 512**0.5)
    assert mixed.mean_square > even.mean_square
    assert (even.longer_side, mixed.longer_side) == (20, pytest.approx(39 * mixed.length / 20))


def test_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable: 600 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.available_bytes("cpu") == 600 * 1024
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 50000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_bytes("cpu") == 600 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    assert machine.available_bytes("cpu") == 150000
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    assert machine.available_bytes("cpu") is None


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_prediction_of_a_small_run() -> None:
    from benchmarks.prediction import QUICK, TOLERANCE, compare

    for case in QUICK:
        result = compare(case)
        assert abs(result["ratio"] - 1) <= TOLERANCE, result


def test_loading_holds_a_slab_of_a_float_tensor_beside_the_codes() -> None:
    assert memory.LOADING_SLAB_BYTES == quantizer.SLAB_BYTES
    shape = published_shape("bloom-7b1")
    assert shape is not None
    encode = Job(method="encode", batch_size=1, length=1)
    assert predict(shape, encode).moments["loading"] == 64 * MIB  # its table alone is 2 GB in 16 bits
    assert predict(shape, replace(encode, device="cuda")).moments["loading"] == 0  # the codes are moved, nothing else
