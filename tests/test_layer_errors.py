"""What 8 bits would lose in each layer: errors by hand and by bitsandbytes, and the code that a weight should have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from bitsandbytes import functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lacos_st.blockwise import CODES, code_table, fitting_block, quantization_error
from lacos_st.cli import main
from lacos_st.layer_errors import LayerErrors, as_json, default_blocks, layer_errors, lines
from lacos_st.linear import quantize_


def network(*weights: torch.Tensor) -> nn.Module:
    """A linear layer without bias for each weight."""
    layers = [nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data.copy_(weight)
    return nn.Sequential(*layers)


def report_of(weight: torch.Tensor, block_size: int) -> LayerErrors:
    (layer,) = layer_errors(network(weight), block_sizes=[block_size])
    return layer


@pytest.mark.parametrize("best", CODES)
def test_a_weight_of_one_codes_own_values_should_have_that_code(best: str) -> None:
    """Each block holds values of one table, its largest (1) among them: nothing but that table holds them all."""
    table = code_table(best)
    picked = table[torch.randint(256, (16, 64), generator=torch.Generator().manual_seed(0))]
    picked[:, 0] = 1.0
    layer = report_of(picked * 0.03, 64)
    assert layer.best(64) == best
    found = layer.errors[64]
    assert found[best].relative_rms < 1e-4 < found[CODES[1 - CODES.index(best)]].relative_rms


def test_errors_by_hand() -> None:
    """Linear codes are k / 127. Of a block (1, 0.5, -0.25, 0) the middle two are off by 0.5 and 0.25 of a step."""
    weight = torch.tensor([[1.0, 0.5, -0.25, 0.0], [2.0, 1.0, -0.5, 0.0]])
    step = 1 / 127
    off = [abs(round(value / step) * step - value) for value in (0.5, 0.25)]
    found = report_of(weight, 4).errors[4]["linear"]
    norm = (1 + 0.25 + 0.0625) ** 0.5
    assert found.relative_rms == pytest.approx((off[0] ** 2 + off[1] ** 2) ** 0.5 / norm, rel=1e-3)
    assert found.max_abs == pytest.approx(2 * max(off), rel=1e-3)
    assert found.relative_max == pytest.approx(max(off), rel=1e-3)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("block_size", [64, 256])
def test_errors_are_those_of_bitsandbytes_round_trip(code: str, block_size: int) -> None:
    weight = torch.randn(32, 512, generator=torch.Generator().manual_seed(1)) * 0.02
    codes, state = functional.quantize_blockwise(weight, code=code_table(code).clone(), blocksize=block_size)
    stored = functional.dequantize_blockwise(codes, state)
    found = report_of(weight, block_size).errors[block_size][code]
    assert found.relative_rms == pytest.approx(float((stored - weight).norm() / weight.norm()), rel=1e-5)
    assert found.max_abs == float((stored - weight).abs().max())
    assert found.relative_max == pytest.approx(float((stored - weight).abs().max() / weight.abs().max()), rel=1e-6)


def test_normal_weights_should_be_linear_and_outlier_columns_dynamic() -> None:
    """stack.md: 0.70 against 1.08 % on N(0, 0.02), 3.1 against 1.6 % with outlier columns, block 256."""
    plain = torch.randn(128, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    outliers = plain.clone()
    outliers[:, ::256] *= 20
    first, second = layer_errors(network(plain, outliers), block_sizes=[256])
    assert (first.best(256), second.best(256)) == ("linear", "dynamic")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-4, 1e3), blocks=st.sets(st.sampled_from([1, 4, 16, 32])))
def test_the_best_loses_no_more_than_any_other(seed: int, scale: float, blocks: set[int]) -> None:
    weight = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed))
    layer, scaled = layer_errors(network(weight, weight * scale), block_sizes=sorted(blocks or {32}))
    for block, errors in layer.errors.items():
        least = errors[layer.best(block)].relative_rms
        assert all(least <= error.relative_rms for error in errors.values())
        for code, error in errors.items():
            assert error == quantization_error(weight, block_size=block, code=code)
            assert 0 <= error.relative_rms <= 0.05  # half the dynamic table's widest gap
            assert error.relative_max <= error.relative_rms * weight.numel() ** 0.5 + 1e-6
            assert scaled.errors[block][code].relative_rms == pytest.approx(error.relative_rms, rel=0.02, abs=1e-4)


def test_a_zero_weight_loses_nothing_and_stays_dynamic() -> None:
    layer = report_of(torch.zeros(2, 64), 64)
    assert layer.best(64) == "dynamic"
    assert {error.relative_max for error in layer.errors[64].values()} == {0.0}


@settings(max_examples=50, deadline=None)
@given(widths=st.lists(st.integers(1, 3000), min_size=1, max_size=5), at_most=st.integers(1, 300))
def test_the_fitting_block_is_the_largest_that_divides_all(widths: list[int], at_most: int) -> None:
    fits = [size for size in range(1, at_most + 1) if all(width % size == 0 for width in widths)]
    assert fitting_block(widths, at_most=at_most) == max(fits)


def test_blocks_that_fit_real_widths() -> None:
    """Widths of SmolLM2-135M, Gemma 3 270M and all-MiniLM-L6-v2, from their configurations."""
    assert fitting_block([576, 1536]) == 192
    assert fitting_block([640, 1024, 2048]) == 128
    assert fitting_block([384, 1536]) == 192


def test_a_block_that_does_not_fit_names_the_layer_and_one_that_fits_all() -> None:
    module = network(torch.zeros(4, 1536), torch.zeros(4, 576))
    said = r"width 576 of 1 is not a multiple of block size 256: .* fits every layer is 192\)"
    with pytest.raises(ValueError, match=said):
        layer_errors(module, block_sizes=[256])
    with pytest.raises(ValueError, match=said):
        quantize_(module, block_size=256)
    assert default_blocks(module) == [64, 192]
    with pytest.raises(ValueError, match="no layer is left"):
        layer_errors(module, skip=["0", "1"])
    with pytest.raises(ValueError, match="0 holds inf or nan"):
        layer_errors(network(torch.full((1, 64), float("nan"))))


def test_lines_and_json() -> None:
    generator = torch.Generator().manual_seed(0)
    report = layer_errors(network(*(torch.randn(8, 128, generator=generator) for _ in range(3))))
    *table, _, small, large = lines(report)
    assert table[0].split()[:3] == ["layer", "shape", "dynamic"]
    assert table[2].split()[:2] == ["1", "8x128"]
    assert table[2].endswith("linear    linear")
    assert small.startswith("block 64: dynamic ")
    assert large.startswith("block 128: dynamic ")
    assert large.endswith("best for 3 of 3")
    read = json.loads(json.dumps(as_json(report)))
    assert [layer["name"] for layer in read] == ["0", "1", "2"]
    block = read[2]["blocks"][1]
    assert (block["block_size"], block["bytes_per_weight"], block["best"]) == (128, 1.03125, "linear")
    assert block["errors"]["linear"] == vars(report[2].errors[128]["linear"])


def test_the_command(tiny_bert_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantization", tiny_bert_dir, "--json", "--block-size", "32", "--skip", "intermediate.dense"]) == 0
    layers = {layer["name"]: layer for layer in json.loads(capsys.readouterr().out)["layers"]}
    weight = tiny.model("bert").embeddings.word_embeddings.weight
    assert len(layers) == 1 + 2 * 5
    assert layers["embeddings.word_embeddings"]["shape"] == list(weight.shape)
    assert main(["quantization", tiny_bert_dir]) == 0
    assert "block 64: dynamic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bloom-nano"], "quantised already"),
        (["no-such-base"], "no-such-base"),
        (["BERT", "--block-size", "48"], "the next smaller block that fits every layer is 32"),
        (["BERT", "--block-size", "0"], "not a multiple of block size 0"),
        (["BERT", "--skip", "dense", "query", "key", "value", "word_embeddings"], "no layer is left"),
    ],
)
def test_what_the_command_refuses(
    tiny_bert_dir: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = [tiny_bert_dir if argument == "BERT" else argument for argument in arguments]
    assert main(["quantization", *given]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_loading_names_the_block_that_fits(tiny_bert_dir: str, tmp_path: Path) -> None:
    from lacos_st.encoders import encoder
    from lacos_st.errors import UserError

    with pytest.raises(UserError, match="fits every layer is 64"):
        encoder(tiny_bert_dir, device="cpu")


def test_memory_names_what_a_block_has_to_divide(tiny_bert_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Widths 64 and 128."""
    assert main(["memory", tiny_bert_dir]) == 2
    assert "not a multiple of block size 256: choose a divisor of 64, which divides" in capsys.readouterr().err
