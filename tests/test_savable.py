"""What is saved is what the model computes with, or saving says why not before it writes anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Transformer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import lacos_st
from lacos_st import UserError, dequantize_, encoder, quantize_
from lacos_st.blockwise import quantize
from lacos_st.trainer import LacosTrainer

TEXTS = ["a man plays a guitar", "guitar", "the street is long and a man walks", "x"]
ANOTHER = LoraConfig(r=4, target_modules=["dense_h_to_4h"], task_type="FEATURE_EXTRACTION")


def stirred(base: str, **options: Any) -> SentenceTransformer:
    model = encoder(base, device="cpu", **{"block_size": 64, "lora_rank": 2, **options})
    tiny.stir_(model)
    return model.eval()


def again(model: SentenceTransformer, folder: Path, **options: Any) -> SentenceTransformer:
    model.save_pretrained(str(folder))
    return SentenceTransformer(str(folder), device="cpu", **options)


@pytest.mark.parametrize("code", [None, "dynamic"])
def test_an_adapter_from_elsewhere_is_not_left_out_of_a_saved_model(
    code: str | None, tiny_bloom_dir: str, tmp_path: Path
) -> None:
    """sentence-transformers' add_adapter: the folder came without it, and loaded in 16 bits without a word."""
    model = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=0, code=code)
    model.add_adapter(ANOTHER)
    with pytest.raises(UserError, match="lora_rank="):
        model.save_pretrained(str(tmp_path / "model"))
    assert not (tmp_path / "model" / "lacos.json").exists()
    rows = Dataset.from_dict({"anchor": TEXTS, "positive": TEXTS})
    with pytest.raises(UserError, match="lora_rank="):
        LacosTrainer(model=model, train_dataset=rows, loss=MultipleNegativesRankingLoss(model))


def delete(model: SentenceTransformer) -> None:
    model[0].auto_model.delete_adapter("default")


def add_second(model: SentenceTransformer) -> None:
    model.add_adapter(ANOTHER, adapter_name="second")
    model.set_adapter("default")


def merge(model: SentenceTransformer) -> None:
    for layer in model.modules():
        if hasattr(layer, "merged_adapters"):
            layer.merge()


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (lambda model: model.disable_adapters(), {}, "enable_adapters"),
        (add_second, {}, "default, second"),
        (delete, {}, "none"),
        (merge, {"code": None}, "unmerge"),
    ],
)
def test_another_state_of_the_adapter_is_named_and_the_model_in_the_folder_stays(
    change: Callable[[SentenceTransformer], None],
    options: dict[str, Any],
    said: str,
    tiny_bloom_dir: str,
    tmp_path: Path,
) -> None:
    model = stirred(tiny_bloom_dir, **options)
    model.save_pretrained(str(tmp_path))
    wanted = model.encode(TEXTS)
    change(model)
    with pytest.raises(UserError, match=said):
        model.save_pretrained(str(tmp_path))
    assert np.array_equal(SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), wanted)


@pytest.mark.filterwarnings("ignore:Dynamo detected", "ignore:.* should not be instantiated")
@pytest.mark.parametrize("wrap", [lambda m: get_peft_model(m, ANOTHER), lambda m: torch.compile(m, backend="eager")])
def test_a_wrapped_bloom_keeps_the_sentences_of_a_batch_apart(wrap: Callable[[Any], Any], tiny_bloom_dir: str) -> None:
    model = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=0)
    wanted = model.encode(TEXTS)
    model[0].model = wrap(model[0].model)
    np.testing.assert_allclose(model.encode(TEXTS), wanted, atol=1e-5)


def test_a_wrapped_base_is_not_saved(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=0)
    model[0].model = get_peft_model(model[0].model, ANOTHER)
    with pytest.raises(UserError, match="around the base"):
        model.save_pretrained(str(tmp_path / "model"))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_a_model_in_16_bits_comes_back_by_other_kernels(tmp_path: Path) -> None:
    """Its probes differ by 4e-3 there, and 1e-4 was allowed in the same dtype."""
    model = stirred("bloom-nano", model_kwargs={"dtype": "bfloat16"})
    model.save_pretrained(str(tmp_path))
    with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[attr-defined]
        loaded = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": "bfloat16"})
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_that_was_cast_comes_back_in_its_dtype(dtype: str, tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = stirred(tiny_bloom_dir).to(getattr(torch, dtype))
    loaded = again(model, tmp_path, model_kwargs={"dtype": dtype})
    np.testing.assert_allclose(loaded.encode(TEXTS), model.encode(TEXTS), rtol=0.1, atol=0.1)


def test_saving_and_loading_inside_autocast(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = stirred(tiny_bloom_dir)
    wanted = model.encode(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        loaded = again(model, tmp_path)
    assert np.array_equal(loaded.encode(TEXTS), wanted)
    assert np.array_equal(SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS), wanted)


@pytest.mark.parametrize("architecture", ["bloom", "llama"])
def test_weights_that_were_trained_and_then_quantised_are_saved(architecture: str, tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base", architecture)
    model = stirred(base, code=None, lora_rank=0)
    quantize_(model[0].auto_model, block_size=32, code="linear", skip=["mlp"])
    loaded = again(model, tmp_path / "model")
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    assert (loaded[0].code, loaded[0].block_size) == ("linear", 32)
    assert np.array_equal(again(loaded, tmp_path / "twice").encode(TEXTS), model.encode(TEXTS))


def test_a_base_that_was_quantised_under_its_adapter_is_saved(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = stirred(tiny_bloom_dir, code=None)
    quantize_(model[0].auto_model, block_size=32)
    loaded = again(model, tmp_path)
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    assert loaded[0].code == "dynamic"


@pytest.mark.parametrize("self_contained", [False, True])
@pytest.mark.parametrize(
    ("change", "skip"),
    [
        (lambda bloom: dequantize_(bloom.h[0]), []),
        (lambda bloom: quantize_(bloom, block_size=64), ["dense_h_to_4h"]),
    ],
)
def test_a_base_of_which_other_layers_are_stored_is_saved(
    change: Callable[[Any], None], skip: list[str], self_contained: bool, tiny_bloom_dir: str, tmp_path: Path
) -> None:
    model = stirred(tiny_bloom_dir, skip=skip, self_contained=self_contained)
    change(model[0].auto_model)
    assert np.array_equal(again(model, tmp_path).encode(TEXTS), model.encode(TEXTS))


def test_layers_in_different_blocks_are_not_saved(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = encoder(tiny_bloom_dir, device="cpu", code=None, lora_rank=0)
    quantize_(model[0].auto_model.h[0], block_size=32)
    quantize_(model[0].auto_model.h[1], block_size=64)
    with pytest.raises(UserError, match="one block size"):
        model.save_pretrained(str(tmp_path / "model"))


@pytest.mark.parametrize("code", [None, "dynamic"])
def test_a_base_that_was_changed_is_saved_with_the_model(
    code: str | None, tiny_bloom_dir: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = stirred(tiny_bloom_dir, code=code)
    model.save_pretrained(str(tmp_path / "by-name"))
    assert not list((tmp_path / "by-name").glob("model*.safetensors"))
    model[0].auto_model.ln_f.weight.data.mul_(2)
    with caplog.at_level(logging.WARNING, logger="lacos_st"):
        loaded = again(model, tmp_path / "changed")
    assert "the base was changed" in caplog.text
    assert np.array_equal(loaded.encode(TEXTS), model.encode(TEXTS))


def test_a_base_that_got_more_tokens_is_saved_with_the_model(tmp_path: Path) -> None:
    """It was saved by its name, and the new token was an IndexError after loading."""
    model = stirred(tiny.save(tmp_path / "base", "llama"), code=None, lora_targets=["mlp.down_proj"])
    new = [f"<new{count}>" for count in range(tiny.VOCABULARY - len(model.tokenizer) + 1)]
    model.tokenizer.add_tokens(new)
    model[0].auto_model.resize_token_embeddings(len(model.tokenizer))
    loaded = again(model, tmp_path / "model")
    assert np.array_equal(loaded.encode(new[-1]), model.encode(new[-1]))


def test_storing_again_what_was_floats_in_between_leaves_the_adapter(tiny_bloom_dir: str, tmp_path: Path) -> None:
    model = stirred(tiny_bloom_dir)
    wanted = model.encode(TEXTS)
    dequantize_(model[0].auto_model)
    quantize_(model[0].auto_model, block_size=2)  # a block that fits an adapter's width
    assert {type(layer).__name__ for name, layer in model.named_modules() if name.endswith(".default")} >= {"Linear"}
    assert all(parameter.is_floating_point() for name, parameter in model.named_parameters() if ".lora_" in name)
    assert sum(".lora_" in name for name, _ in model.named_parameters()) > 0
    np.testing.assert_allclose(again(model, tmp_path).encode(TEXTS), wanted, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_quantising_whatever_torchs_default_dtype_is(dtype: torch.dtype) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    wanted = quantize(weight, block_size=64)
    torch.set_default_dtype(dtype)
    try:
        found = quantize(weight, block_size=64)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_storage_is_not_named_among_transformers_options(tiny_bloom_dir: str) -> None:
    config = lacos_st.Blockwise8bitConfig(block_size=32, code="linear")
    with pytest.raises(UserError, match="block_size="):
        encoder(tiny_bloom_dir, device="cpu", model_kwargs={"quantization_config": config})


def test_another_attention_is_said_to_have_no_effect(tiny_bloom_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="lacos_st"):
        encoder(tiny_bloom_dir, block_size=64, device="cpu", model_kwargs={"attn_implementation": "sdpa"})
    assert "has no effect" in caplog.text


def test_an_encoder_is_not_made_from_a_model_with_another_pooling(tiny_bloom_dir: str, tmp_path: Path) -> None:
    module = lacos_st.BloomLoRA8bit(tiny_bloom_dir, block_size=64)
    for mode in ("mean", "cls"):
        model = SentenceTransformer(modules=[module, lacos_st.Pooling(64, mode)], device="cpu")
        model.save_pretrained(str(tmp_path / mode))
    wanted = SentenceTransformer(str(tmp_path / "mean"), device="cpu").encode(TEXTS)
    assert np.array_equal(encoder(str(tmp_path / "mean"), block_size=64, device="cpu").encode(TEXTS), wanted)
    with pytest.raises(UserError, match="saved model"):
        encoder(str(tmp_path / "cls"), device="cpu")


def test_a_chat_template_of_the_model_before_goes(tmp_path: Path) -> None:
    bases = [tiny.save(tmp_path / str(chat), chat_template=chat) for chat in (True, False)]
    for base in bases:
        stirred(base).save_pretrained(str(tmp_path / "model"))
    assert SentenceTransformer(str(tmp_path / "model"), device="cpu").tokenizer.chat_template is None


def typed_pairs(folder: Path) -> str:
    """A BERT whose tokenizer gives the second text of a pair the token type 1."""
    base = tiny.save(folder, "bert")
    core = tiny.tokenizer().backend_tokenizer
    core.post_processor = TemplateProcessing(
        single="$A:0 </s>:0", pair="$A:0 </s>:0 $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", sep_token="</s>", model_input_names=names
    ).save_pretrained(folder)
    return base


def test_token_types_of_pairs_are_read_or_refused(tmp_path: Path) -> None:
    """Without padding the collator leaves them out, and the pair was embedded as if all of it were the first text."""
    base = typed_pairs(tmp_path)
    stock = SentenceTransformer(modules=[Transformer(base), lacos_st.Pooling(64)], device="cpu")
    ours = encoder(base, device="cpu", lora_rank=0, code=None)
    pairs = [("a man", "guitar"), ("the street is long", "x")]
    np.testing.assert_allclose(ours.encode(TEXTS), stock.encode(TEXTS), atol=1e-5)
    with pytest.raises(UserError, match="unpad_inputs = False"):
        ours.encode(pairs)
    ours[0].unpad_inputs = False
    np.testing.assert_allclose(ours.encode(pairs), stock.encode(pairs), atol=1e-5)
