"""8-bit layers against torch's layers on the de-quantised weights."""

from __future__ import annotations

import copy
import io

import pytest
import tiny
import torch
from bitsandbytes.optim import Adam8bit, GlobalOptimManager
from torch import nn

from lacos_st import UserError
from lacos_st import linear as linear_file
from lacos_st.adapters import add_lora_
from lacos_st.blockwise import dequantize, quantize
from lacos_st.linear import Embedding8bit, Linear8bit, codes_hash, dequantize_, error_report, quantize_


@pytest.fixture
def pair() -> tuple[nn.Sequential, nn.Sequential]:
    """A stored network, and the float one that it stands for."""
    torch.manual_seed(0)
    stored = nn.Sequential(nn.Embedding(30, 64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64, bias=False))
    quantize_(stored, block_size=64)
    plain = copy.deepcopy(stored)
    dequantize_(plain)
    return stored, plain


def test_layers_are_what_peft_and_others_look_for(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    stored, plain = pair
    assert isinstance(stored[0], Embedding8bit) and isinstance(stored[0], nn.Embedding)
    assert isinstance(stored[1], Linear8bit) and isinstance(stored[1], nn.Linear)
    assert type(plain[0]) is nn.Embedding and type(plain[1]) is nn.Linear
    assert [name for name, _ in stored.named_parameters()] == ["1.bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_equal_the_plain_layers(
    pair: tuple[nn.Sequential, nn.Sequential], dtype: torch.dtype
) -> None:
    stored, plain = pair[0].to(dtype), pair[1].to(dtype)
    ids = torch.randint(0, 30, (3, 5))
    assert torch.equal(stored(ids), plain(ids))
    results = []
    for network in (stored, plain):
        inputs = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        network[1:](inputs).square().sum().backward()
        results.append((inputs.grad, network[1].bias.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5 if dtype == torch.float32 else 2e-2)


def test_nothing_but_codes_is_saved_for_backward(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    saved: list[torch.Tensor] = []
    inputs = torch.randn(4, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        pair[0][1](inputs)
    assert {tensor.data_ptr() for tensor in saved} == {pair[0][1].codes.data_ptr(), pair[0][1].absmax.data_ptr()}


def test_casts_touch_neither_codes_nor_absmax(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    stored = pair[0]
    before = codes_hash(stored)
    for cast in (
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double(),
        lambda m: m.to(torch.float16),
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.type(torch.float32),
    ):
        cast(stored)
        assert stored[1].codes.dtype == torch.uint8
        assert stored[1].absmax.dtype == torch.float32
        assert codes_hash(stored) == before
    assert stored.half()(torch.tensor([1])).dtype == torch.float16
    assert stored.float()[0](torch.tensor([1])).dtype == torch.float32


def test_autocast_computes_in_its_dtype(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    stored, plain = pair
    ids = torch.tensor([[1, 2, 3]])
    before = codes_hash(stored)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = stored(ids), plain(ids)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    assert codes_hash(stored) == before


def test_state_dict_round_trip(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    stored = pair[0]
    file = io.BytesIO()
    torch.save(stored.state_dict(), file)
    file.seek(0)
    other = nn.Sequential(nn.Embedding(30, 64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64, bias=False))
    quantize_(other, block_size=64)
    assert codes_hash(other) != codes_hash(stored)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert codes_hash(other) == codes_hash(stored)


def test_weight_reads_and_refuses_to_be_written(pair: tuple[nn.Sequential, nn.Sequential]) -> None:
    stored, plain = pair
    assert torch.equal(stored[1].weight, plain[1].weight)
    assert type(stored[1].weight + 1) is torch.Tensor
    with pytest.raises(UserError, match="merge into the 16-bit base"):
        stored[1].weight.data += 1  # what a merge of adapters does: an error, not a change that is lost
    with pytest.raises(UserError, match="merge into the 16-bit base"):
        stored[1].weight.add_(1)
    with pytest.raises(UserError, match="merge into the 16-bit base"):
        torch.add(plain[1].weight, 1, out=stored[1].weight)
    inputs = torch.randn(3, 64, requires_grad=True)
    nn.functional.linear(inputs, stored[1].weight).sum().backward()
    assert inputs.grad is not None
    assert torch.allclose(inputs.grad[0], plain[1].weight.sum(0))


def test_looking_at_a_weight_does_not_dequantise_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token embedding of BLOOM-7b1 is 4 GiB of floats; the optimiser looks at it in every step."""
    model = tiny.model("bloom")
    quantize_(model, block_size=64)
    monkeypatch.setattr(linear_file, "dequantize", lambda *a, **k: pytest.fail("de-quantised"))
    add_lora_(model, rank=2, targets="all-linear")
    weight = model.get_input_embeddings().weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((tiny.VOCABULARY, 64), torch.float32, "cpu")
    assert "Embedding8bit" in repr(weight)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adam8bit(adapters, lr=1e-3)
    manager = GlobalOptimManager.get_instance()
    monkeypatch.setattr(manager, "module_weight_config_triple", [(model.word_embeddings, "weight", {"optim_bits": 32})])
    for parameter in adapters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_quantize_leaves_out_what_it_is_told_to() -> None:
    network = tiny.model("bloom")
    quantize_(network, block_size=64, skip=["h.0.mlp.dense_4h_to_h", "query_key_value"])
    kinds = {name: type(layer) for name, layer in network.named_modules()}
    assert kinds["h.0.mlp.dense_4h_to_h"] is nn.Linear
    assert kinds["h.1.mlp.dense_4h_to_h"] is Linear8bit
    assert kinds["h.1.self_attention.query_key_value"] is nn.Linear
    assert kinds["word_embeddings"] is Embedding8bit


def test_only_the_token_embedding_of_a_model_is_stored() -> None:
    network = tiny.model("bert")
    quantize_(network, block_size=64)
    assert isinstance(network.embeddings.word_embeddings, Embedding8bit)
    assert type(network.embeddings.position_embeddings) is nn.Embedding


def test_a_width_that_no_block_fits_changes_nothing() -> None:
    network = nn.Sequential(nn.Linear(64, 770), nn.Linear(770, 64))
    with pytest.raises(ValueError, match="width 770 of 1 is not a multiple of block size 64"):
        quantize_(network, block_size=64)
    assert type(network[0]) is nn.Linear


def test_error_report_names_every_layer() -> None:
    network = tiny.model("bloom")
    report = error_report(network, block_size=64)
    assert len(report) == 2 * 4 + 1
    weight = network.h[0].mlp.dense_h_to_4h.weight.detach()
    stored = dequantize(*quantize(weight, block_size=64), block_size=64, code="dynamic")
    entry = report["h.0.mlp.dense_h_to_4h"]
    assert entry.max_abs == pytest.approx((stored - weight).abs().max().item())
    assert entry.relative_rms == pytest.approx(((stored - weight).norm() / weight.norm()).item(), rel=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [linear_file.FEW_TOKENS, linear_file.FEW_TOKENS + 1])
def test_slab_by_slab_is_the_same_product(monkeypatch: pytest.MonkeyPatch, tokens: int, bias: bool) -> None:
    plain = nn.Linear(64, 37, bias=bias)
    stored = nn.Sequential(plain)
    quantize_(stored, block_size=32)
    reference = copy.deepcopy(stored)
    dequantize_(reference)
    made: list[int] = []
    dequantized = Linear8bit.dequantized
    monkeypatch.setattr(
        Linear8bit, "dequantized", lambda self, dtype, rows: made.append(rows.stop) or dequantized(self, dtype, rows)
    )
    monkeypatch.setattr(linear_file, "CACHED_SLAB_BYTES", 10 * 64 * 4)
    monkeypatch.setattr(linear_file, "SLAB_BYTES", 20 * 64 * 4)
    results = []
    for module in (stored, reference):
        inputs = torch.linspace(-1, 1, tokens * 64).view(tokens, 64).requires_grad_()
        result = module(inputs)
        result.square().sum().backward()
        results.append((result.detach(), inputs.grad))
    assert made == ([10, 20, 30, 37] if tokens <= linear_file.FEW_TOKENS else [20, 37]) * 2
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_a_bare_layer_is_refused_and_left_as_it_is() -> None:
    for layer in (nn.Linear(256, 4), nn.Embedding(4, 256)):
        with pytest.raises(ValueError, match=r"cannot be replaced in itself: wrap it, quantize_\(nn.Sequential\(layer"):
            quantize_(layer)
        assert not list(layer.children())


def test_a_vector_goes_through_a_layer() -> None:
    layers = nn.Sequential(nn.Linear(64, 3))
    quantize_(layers, block_size=64)
    vector = torch.randn(64, requires_grad=True)
    found, expected = layers(vector), layers(vector[None])[0]
    assert found.shape == (3,)
    torch.testing.assert_close(found, expected)
    (grad,) = torch.autograd.grad(found.sum(), vector)
    torch.testing.assert_close(grad, layers[0].dequantized().sum(0))
