"""The lean BLOOM against transformers' `BloomModel`, a sentence alone against one in a batch, LoRA against stock peft.

    python -m benchmarks.parity

Each figure is a largest absolute difference in float32 over `CASES`; all are to stay at or below 1e-5.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import BloomConfig, BloomModel

from benchmarks import rows
from lacos_st.adapters import ADAPTER, adapter_parameters, add_lora_, lora_layers
from lacos_st.bloom import BloomEncoder
from lacos_st.linear import dequantize_, quantize_

VOCABULARY = 512


@dataclass(frozen=True)
class Case:
    """One shape: heads, width of a head, layers, the sentences' lengths, and the side that is padded."""

    heads: int
    width: int
    layers: int
    lengths: tuple[int, ...]
    left: bool

    @property
    def mask(self) -> torch.Tensor:
        """(B, T), 1 for a real token."""
        row = [[1] * n + [0] * (max(self.lengths) - n) for n in self.lengths]
        return torch.tensor([r[::-1] if self.left else r for r in row])


CASES = tuple(
    Case(heads, width, layers, lengths, left)
    for heads, width, layers in ((1, 64, 2), (3, 64, 3), (4, 64, 4), (6, 32, 2), (16, 16, 6))
    for lengths in ((1,), (5, 5, 5), (1, 40, 7, 12), (64, 2, 30))
    for left in (False, True)
)


def stock_model(case: Case) -> BloomModel:
    """Random weights, large enough that attention matters."""
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=VOCABULARY, hidden_size=case.heads * case.width, n_layer=case.layers, n_head=case.heads
    )
    model = BloomModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.05)
    return model


def lean_twin(stock: BloomModel) -> BloomEncoder:
    """The same weights in our encoder."""
    lean = BloomEncoder(stock.config).eval()
    lean.load_state_dict(stock.state_dict())
    return lean


def run(model: torch.nn.Module, case: Case, **options: bool) -> torch.Tensor:
    """Hidden states (B, T, H), zeros at padding, with the gradients of a fixed unit projection left behind."""
    mask = case.mask
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, mask.shape, generator=generator)
    hidden = model(input_ids=ids, attention_mask=mask, **options).last_hidden_state * mask[..., None]
    target = torch.randn(hidden.shape, generator=generator) * mask[..., None]
    (hidden * (target / target.norm())).sum().backward()
    return hidden.detach()


def largest(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def encoder_differences(case: Case) -> tuple[float, float]:
    """Hidden states and gradients of all weights, ours against stock."""
    stock = stock_model(case)
    lean = lean_twin(stock)
    hidden = largest([run(lean, case)], [run(stock, case, use_cache=False)])
    return hidden, largest(gradients(lean), gradients(stock))


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    """Of all parameters, in their order."""
    found = [parameter.grad for parameter in model.parameters()]
    assert all(grad is not None for grad in found)
    return [grad for grad in found if grad is not None]


def batch_difference(case: Case) -> float:
    """Mean-pooled embeddings in 8 bits: each sentence alone against the batch."""
    lean = lean_twin(stock_model(case))
    quantize_(lean, block_size=case.width)
    together = run(lean, case)
    ids = torch.randint(0, VOCABULARY, case.mask.shape, generator=torch.Generator().manual_seed(1))
    worst = 0.0
    for row, real in enumerate(case.mask.bool()):
        alone = lean(input_ids=ids[row][real][None]).last_hidden_state.detach()[0].mean(0)
        worst = max(worst, largest([together[row][real].mean(0)], [alone]))
    return worst


def lora_difference(case: Case) -> float:
    """LoRA gradients on the 8-bit base against stock peft on the de-quantised one, in transformers' BLOOM."""
    lean = lean_twin(stock_model(case))
    quantize_(lean, block_size=case.width)
    plain = copy.deepcopy(lean)
    dequantize_(plain)
    stock = BloomModel(plain.config).eval()
    stock.load_state_dict(plain.state_dict())
    targets = lora_layers(stock)
    add_lora_(lean, rank=4)
    torch.manual_seed(2)
    for parameter in adapter_parameters(lean).values():
        torch.nn.init.normal_(parameter, 0.0, 0.05)
    wrapped = get_peft_model(
        stock, LoraConfig(r=4, lora_alpha=4, target_modules=targets, task_type="FEATURE_EXTRACTION")
    )
    weights = get_peft_model_state_dict(lean, adapter_name=ADAPTER, save_embedding_layers=False)
    set_peft_model_state_dict(wrapped, {f"base_model.model.{name}": tensor for name, tensor in weights.items()})
    run(lean, case)
    run(wrapped.eval(), case, use_cache=False)
    ours, theirs = adapter_gradients(lean), adapter_gradients(wrapped)
    assert ours.keys() == theirs.keys() == set(adapter_parameters(lean))
    return largest(list(ours.values()), [theirs[name] for name in ours])


def adapter_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By name, without peft's prefix."""
    found = {name.removeprefix("base_model.model."): p.grad for name, p in adapter_parameters(model).items()}
    return {name: grad for name, grad in found.items() if grad is not None}


def main() -> None:
    """Measure, append the row, print it."""
    pairs = [encoder_differences(case) for case in CASES]
    row = rows.append(
        "parity",
        cases=len(CASES),
        hidden_states_max_difference=max(hidden for hidden, _ in pairs),
        gradients_max_difference=max(gradient for _, gradient in pairs),
        batch_invariance_max_difference=max(batch_difference(case) for case in CASES),
        lora_gradients_max_difference=max(lora_difference(case) for case in CASES),
    )
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
