"""`TextEncoder`: what it counts is what the model reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from lacos_st.encoders import encoder
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
