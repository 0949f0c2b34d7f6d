from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from peft.tuners import lora

from lacos_st.adapters import adapter_parameters, add_lora_
from lacos_st.linear import quantize_
from lacos_st.product import FusedLoRALinear


def model(*, code: str | None, targets: str = "paper", dropout: float = 0.0) -> Any:
    made = tiny.model("llama")
    if code is not None:
        quantize_(made, block_size=32, code=code)
    add_lora_(made, rank=3, alpha=5.0, targets=targets, dropout=dropout)
    tiny.stir_(made)
    return made.train()


def run(made: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states, and the gradients of a random projection by the adapter's names."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, tiny.VOCABULARY, (2, 9), generator=generator)
    hidden = made(input_ids=ids).last_hidden_state
    made.zero_grad()
    (hidden.float() * torch.randn(hidden.shape, generator=generator)).sum().backward()
    return hidden.detach(), {name: parameter.grad.clone() for name, parameter in adapter_parameters(made).items()}


@pytest.mark.parametrize("targets", ["paper", "all-linear"])
@pytest.mark.parametrize("code", ["dynamic", None])
def test_like_stock_peft(monkeypatch: pytest.MonkeyPatch, code: str | None, targets: str) -> None:
    made = model(code=code, targets=targets)
    wrapped = [layer for layer in made.modules() if isinstance(layer, lora.Linear)]
    assert wrapped
    assert all(isinstance(layer, FusedLoRALinear) for layer in wrapped)
    hidden, gradients = run(made)
    monkeypatch.setattr(FusedLoRALinear, "forward", lora.Linear.forward)
    expected, expected_gradients = run(made)
    assert (hidden - expected).abs().max() <= 1e-5 * expected.abs().max()
    for name, gradient in gradients.items():
        assert (gradient - expected_gradients[name]).norm() <= 1e-5 * expected_gradients[name].norm(), name


def test_dropout_goes_pefts_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(code="dynamic", dropout=0.5)
    calls = []
    stock = lora.Linear.forward
    monkeypatch.setattr(lora.Linear, "forward", lambda self, *args: calls.append(1) or stock(self, *args))
    run(made)
    assert calls
    calls.clear()
    run(made.eval())
    assert not calls


@pytest.mark.parametrize("adapted", [True, False])
def test_an_input_is_kept_once_and_for_adapters_only(adapted: bool) -> None:
    """The gate and up projections of one layer share it; the codes are there anyway."""
    made = model(code="dynamic")
    layer = made.layers[0].mlp
    for wrapped in (layer.gate_proj, layer.up_proj):
        wrapped.enable_adapters(adapted)
    inputs = torch.randn(11, 64, requires_grad=True)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    kept: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = layer.gate_proj(inputs) + layer.up_proj(inputs)
    assert kept - own == ({inputs.untyped_storage().data_ptr()} if adapted else set())
    result.sum().backward()
    weight = layer.gate_proj.get_base_layer().weight + layer.up_proj.get_base_layer().weight
    if not adapted:
        assert torch.allclose(inputs.grad, weight.sum(0).expand(11, -1), atol=1e-5)


def test_under_autocast() -> None:
    made = model(code="dynamic")
    hidden, gradients = run(made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, rough_gradients = run(made)
    assert 0 < (rough - hidden).norm() <= 0.05 * hidden.norm()
    for name, gradient in gradients.items():
        assert rough_gradients[name].dtype == gradient.dtype
        assert (rough_gradients[name] - gradient).norm() <= 0.1 * gradient.norm(), name
