"""`TextEncoder`, `tokens_read`: what they count is what the model reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from lacos_st.encoders import encoder
from lacos_st.lengths import tokens_read
from lacos_st.loading import read_tokenizer
from lacos_st.methods import build_model
from lacos_st.settings import TrainConfig
from lacos_st.text_encoder import TextEncoder


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("prompt", [None, "a guitar: "])
def test_tokens_are_counted_as_they_are_read(template: bool, prompt: str | None, tmp_path: Path) -> None:
    base = tiny.save(tmp_path, "llama")
    tiny.tokenizer(chat_template=True).save_pretrained(base)
    model = encoder(base, lora_rank=0, block_size=32, chat_template=template, device="cpu")
    texts = TextEncoder(model, prompt=prompt)
    read = model.preprocess(tiny.SENTENCES, prompt=prompt)["cu_seq_lens_q"].diff().tolist()
    assert texts.count(tiny.SENTENCES).tolist() == read
    model.max_seq_length = 2
    assert texts.count(tiny.SENTENCES).tolist() == read
    assert max(model.preprocess(tiny.SENTENCES, prompt=prompt)["cu_seq_lens_q"].diff().tolist()) == 2


@pytest.mark.parametrize("template", [False, True])
@pytest.mark.parametrize("prompt", [None, "a guitar: "])
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("limit", [None, 9])
def test_a_run_is_counted_as_it_is_read(
    template: bool, prompt: str | None, echo: bool, limit: int | None, tmp_path: Path
) -> None:
    """Its memory was predicted, and a sweep's tokens counted, of the sentences without their template."""
    base = tiny.save(tmp_path / "base", "llama")
    tiny.tokenizer(chat_template=True).save_pretrained(base)
    options = {
        "base": base,
        "data": "x.tsv",
        "output": "out",
        "prompt": prompt,
        "chat_template": template,
        "echo": echo,
    }
    config = TrainConfig.from_mapping({**options, "max_seq_length": limit, "block_size": 32, "cpu": True}).resolved()
    model = build_model(config)
    read = model.preprocess(tiny.SENTENCES, prompt=prompt)["cu_seq_lens_q"].diff() * (1 + echo)
    assert tokens_read(config, read_tokenizer(base), tiny.SENTENCES) == read.tolist()
