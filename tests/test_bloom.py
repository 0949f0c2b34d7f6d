"""`BloomEncoder` against transformers' `BloomModel` on the same weights."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BloomConfig, BloomModel

from lacos_st.bloom import BloomEncoder


def twins(heads: int, width: int, *, seed: int = 0, **options: object) -> tuple[BloomModel, BloomEncoder]:
    config = BloomConfig(vocab_size=100, hidden_size=heads * width, n_layer=2, n_head=heads, **options)
    torch.manual_seed(seed)
    stock = BloomModel(config).eval()
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.1)
    lean = BloomEncoder(config).eval()
    lean.load_state_dict(stock.state_dict())  # the same names, none missing, none left over
    return stock, lean


def mask(lengths: list[int], *, left: bool) -> torch.Tensor:
    rows = [[1] * n + [0] * (max(lengths) - n) for n in lengths]
    return torch.tensor([row[::-1] if left else row for row in rows])


@settings(max_examples=25, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 3, 4, 6, 12]),
    width=st.sampled_from([8, 16]),
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=6),
    left=st.booleans(),
    post_norm=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_hidden_states_and_gradients_are_stock(
    heads: int, width: int, lengths: list[int], left: bool, post_norm: bool, seed: int
) -> None:
    stock, lean = twins(heads, width, seed=seed, apply_residual_connection_post_layernorm=post_norm)
    attention_mask = mask(lengths, left=left)
    ids = torch.randint(0, 100, attention_mask.shape)
    target = torch.randn(*ids.shape, heads * width) * attention_mask[..., None]
    target /= target.norm()
    outputs, gradients = [], []
    for model in (stock, lean):
        options = {"use_cache": False} if model is stock else {}
        output = model(input_ids=ids, attention_mask=attention_mask, **options).last_hidden_state
        (output * target).sum().backward()
        outputs.append(output * attention_mask[..., None])
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert torch.allclose(outputs[0], outputs[1], rtol=0, atol=1e-5)
    for (name, _), theirs, ours in zip(stock.named_parameters(), *gradients, strict=True):
        assert torch.allclose(theirs, ours, rtol=0, atol=1e-5), name


@pytest.mark.parametrize("alibi", ["exact", "reference"])
def test_batch_invariance(alibi: str) -> None:
    """A sentence alone and in any batch, padded on either side or flat: the same to 1e-5."""
    _, lean = twins(4, 16, alibi=alibi)
    assert lean.alibi == alibi
    lengths = [7, 1, 24, 7, 12]
    sentences = [torch.randint(0, 100, (n,)) for n in lengths]
    alone = [lean(input_ids=s[None]).last_hidden_state[0] for s in sentences]
    for left in (False, True):
        attention_mask = mask(lengths, left=left)
        ids = torch.zeros_like(attention_mask)
        ids[attention_mask.bool()] = torch.cat(sentences)
        batch = lean(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        for row, sentence in enumerate(alone):
            assert torch.allclose(batch[row][attention_mask[row].bool()], sentence, rtol=0, atol=1e-5)
        assert torch.all(batch[attention_mask == 0] == 0)
    cu_seq_lens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)
    flat = lean(input_ids=torch.cat(sentences)[None], cu_seq_lens_q=cu_seq_lens).last_hidden_state
    assert torch.allclose(flat[0], torch.cat(alone), rtol=0, atol=1e-5)


def test_empty_texts_take_part() -> None:
    _, lean = twins(2, 16)
    attention_mask = torch.tensor([[0, 0], [1, 1]])
    output = lean(input_ids=torch.ones(2, 2, dtype=torch.long), attention_mask=attention_mask).last_hidden_state
    assert torch.all(output[0] == 0)
    nothing = lean(input_ids=torch.zeros(3, 0, dtype=torch.long), attention_mask=torch.zeros(3, 0)).last_hidden_state
    assert nothing.shape == (3, 0, 32)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    _, lean = twins(4, 16)
    ids, attention_mask = torch.randint(0, 100, (3, 9)), mask([9, 2, 5], left=False)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            lean.activation_checkpointing_enable()
            assert all(block.gradient_checkpointing for block in lean.h)
        lean.train().zero_grad()
        lean(input_ids=ids, attention_mask=attention_mask).last_hidden_state.square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in lean.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_hidden_states_of_each_layer() -> None:
    stock, lean = twins(4, 16)
    ids = torch.randint(0, 100, (2, 9))
    theirs = stock(ids, output_hidden_states=True, use_cache=False).hidden_states
    ours = lean(ids, output_hidden_states=True).hidden_states
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.equal(lean(ids, return_dict=False)[0], lean(ids).last_hidden_state)


def test_embeddings_instead_of_ids() -> None:
    _, lean = twins(4, 16)
    ids = torch.randint(0, 100, (2, 9))
    assert torch.equal(
        lean(inputs_embeds=lean.word_embeddings(ids)).last_hidden_state, lean(input_ids=ids).last_hidden_state
    )


def test_bfloat16_autocast_and_dropout_run() -> None:
    _, lean = twins(4, 16, hidden_dropout=0.1, attention_dropout=0.1)
    ids = torch.randint(0, 100, (2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(lean.train()(ids).last_hidden_state).all()
    evaluated = lean.eval()(ids).last_hidden_state
    assert torch.allclose(lean.to(torch.bfloat16)(ids).last_hidden_state.float(), evaluated, atol=0.2)
    assert not torch.equal(lean.train()(ids).last_hidden_state, lean(ids).last_hidden_state)


def test_what_an_encoder_cannot_do() -> None:
    lean = BloomEncoder(tiny.model("bloom").config)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        lean()
    with pytest.raises(ValueError, match="no key-value cache"):
        lean(input_ids=torch.ones(1, 1, dtype=torch.long), use_cache=True)
