from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from transformers import BloomConfig

from lacos_st import attention
from lacos_st.adapters import adapter_parameters, add_lora_
from lacos_st.bloom import BloomEncoder, LeanBloomBlock
from lacos_st.kernels import FALLBACK
from lacos_st.linear import dequantize_, quantize_
from lacos_st.methods import _checkpoint_activations_

LENGTHS = (5, 1, 7, 0, 7, 12)


def encoder(*, code: str | None = "dynamic", targets: str = "paper", rank: int = 4, hidden: int = 64) -> BloomEncoder:
    """Two random layers with an adapter that does something."""
    config = BloomConfig(vocab_size=tiny.VOCABULARY, hidden_size=hidden, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = BloomEncoder(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.1)
    if code is not None:
        quantize_(model, block_size=32, code=code)
    add_lora_(model, rank=rank, alpha=3.0, targets=targets)
    tiny.stir_(model)
    return model.train()


def run(model: BloomEncoder, lengths: tuple[int, ...] = LENGTHS) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states (1, ΣT, H), and the gradients of a random projection by the adapter's names."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, tiny.VOCABULARY, (1, sum(lengths)), generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    hidden = model(input_ids=ids, cu_seq_lens_q=bounds).last_hidden_state
    weights = torch.randn(hidden.shape, generator=generator)
    model.zero_grad()
    (hidden.float() * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in adapter_parameters(model).items()}
    return hidden.detach(), {name: grad.clone() for name, grad in gradients.items() if grad is not None}


def plainly(monkeypatch: pytest.MonkeyPatch, model: BloomEncoder) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same as plain modules under autograd: the reference."""
    with monkeypatch.context() as patch:
        patch.setattr(LeanBloomBlock, "_frozen", lambda self: None)
        return run(model)


def close(ours: Any, reference: Any, tolerance: float) -> None:
    hidden, gradients = ours
    expected, expected_gradients = reference
    assert (hidden - expected).abs().max() <= tolerance * expected.abs().max()
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.dtype == expected_gradients[name].dtype
        assert (gradient - expected_gradients[name]).norm() <= tolerance * expected_gradients[name].norm(), name


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("targets", ["paper", "all-linear", "query_key_value"])
@pytest.mark.parametrize("code", ["dynamic", "linear", None])
def test_like_plain_modules(monkeypatch: pytest.MonkeyPatch, code: str | None, targets: str, checkpoint: bool) -> None:
    model = encoder(code=code, targets=targets)
    if checkpoint:
        _checkpoint_activations_(model)
        assert all(block.gradient_checkpointing for block in model.h)
    ours = run(model)
    assert len(ours[1]) == len(adapter_parameters(model)) > 0
    close(ours, plainly(monkeypatch, model), 1e-5)


def test_like_the_dequantised_model() -> None:
    model = encoder()
    plain = copy.deepcopy(model)
    dequantize_(plain)
    close(run(model), run(plain), 1e-5)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_in_bfloat16_as_far_as_it_carries(monkeypatch: pytest.MonkeyPatch, checkpoint: bool) -> None:
    model = encoder()
    exact = run(model)
    model.to(torch.bfloat16)
    for parameter in adapter_parameters(model).values():
        parameter.data = parameter.data.float()
    if checkpoint:
        _checkpoint_activations_(model)
    ours, reference = run(model), plainly(monkeypatch, model)
    assert ours[0].dtype == torch.bfloat16
    assert all(gradient.dtype == torch.float32 for gradient in ours[1].values())

    def error(result: Any) -> float:
        pairs = [(result[0].float(), exact[0]), *((result[1][name], exact[1][name]) for name in exact[1])]
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)

    assert error(ours) <= max(1.5 * error(reference), 0.03)


def test_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder()
    exact = run(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, reference = run(model), plainly(monkeypatch, model)
    assert ours[0].dtype == reference[0].dtype
    for name, gradient in exact[1].items():
        distance = float((reference[1][name] - gradient).norm())
        assert 0 < float((ours[1][name] - gradient).norm()) <= 1.5 * distance + 0.01 * float(gradient.norm())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.h[0].input_layernorm.weight.requires_grad_(True), "a trained norm"),
        (lambda model: model.h[0].mlp.dense_h_to_4h.base_layer.bias.requires_grad_(True), "a trained bias"),
        (lambda model: setattr(model.h[0], "hidden_dropout", 0.5), "dropout"),
        (lambda model: setattr(model.h[0], "post_layernorm_residual", True), "another place of the residual"),
        (lambda model: model.h[0].mlp.dense_h_to_4h.enable_adapters(False), None),
    ],
)
def test_where_it_runs(change: Callable[[BloomEncoder], Any], reason: str | None) -> None:
    model = encoder()
    assert all(block._frozen() is not None for block in model.h)
    change(model)
    assert (model.h[0]._frozen() is None) == (reason is not None)
    run(model)


def test_without_gradients_nothing_is_kept() -> None:
    model = encoder()
    with torch.no_grad():
        hidden = model(input_ids=torch.arange(9)[None], cu_seq_lens_q=torch.tensor([0, 4, 9])).last_hidden_state
    assert not hidden.requires_grad
    grown = model(input_ids=torch.arange(9)[None], cu_seq_lens_q=torch.tensor([0, 4, 9])).last_hidden_state
    assert grown.requires_grad
    assert (hidden - grown).abs().max() <= 1e-5


def test_a_second_backward_gives_the_same_gradients() -> None:
    model = encoder()
    hidden = model(input_ids=torch.arange(9)[None], cu_seq_lens_q=torch.tensor([0, 4, 9])).last_hidden_state
    found = []
    for _ in range(2):
        model.zero_grad()
        hidden.square().sum().backward(retain_graph=True)
        found.append([parameter.grad.clone() for parameter in adapter_parameters(model).values()])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_an_adapter_changed_before_the_backward_is_noticed() -> None:
    model = encoder()
    hidden = model(input_ids=torch.arange(9)[None], cu_seq_lens_q=torch.tensor([0, 4, 9])).last_hidden_state
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hidden.sum().backward()


def saved_bytes(model: BloomEncoder, tokens: int, layers: int) -> int:
    """Distinct bytes that the backward of a batch keeps, parameters and codes aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    full = model.h
    model.h = full[:layers]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = model(input_ids=torch.zeros(1, tokens, dtype=torch.long), cu_seq_lens_q=torch.tensor([0, tokens]))
    model.h = full
    del result
    return sum(kept.values())


@pytest.mark.parametrize(("dtype", "checkpoint", "limit"), [(torch.bfloat16, False, 16), (torch.bfloat16, True, 2)])
def test_bytes_kept_per_token_and_layer(dtype: torch.dtype, checkpoint: bool, limit: int) -> None:
    """In units of the hidden size: the difference that one layer more makes."""
    model = encoder().to(dtype)
    if checkpoint:
        _checkpoint_activations_(model)
    tokens = 96
    per_layer = saved_bytes(model, tokens, 2) - saved_bytes(model, tokens, 1)
    assert 0.9 * limit <= per_layer / tokens / 64 <= limit


def test_an_attention_kernel_with_autograd_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the backward of attention is the kernel's."""
    model = encoder(targets="all-linear")
    expected = run(model)
    calls = []
    monkeypatch.setattr(attention, "choose", lambda request: calls.append(request) or FALLBACK)
    close(run(model), expected, 1e-5)
    assert calls
