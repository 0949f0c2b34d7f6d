from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lacos_st.embedded import ASSETS, EMBEDDED, resolve

LANGUAGES = ["A man plays the guitar.", "Un homme joue de la guitare.", "एक आदमी गिटार बजाता है।", "他在弹吉他。", ""]


def test_an_embedded_name_is_the_packaged_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("bloom-nano") == str(ASSETS / "bloom-nano")
    assert Path(resolve("bert-nano")).is_dir()
    assert resolve("bigscience/bloom-560m") == "bigscience/bloom-560m"


def test_a_local_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert-nano").mkdir()
    assert resolve("bert-nano") == "bert-nano"
    assert resolve(str(tmp_path / "bert-nano")) == str(tmp_path / "bert-nano")


def test_both_models_take_less_than_16_megabytes() -> None:
    size_bytes = sum(path.stat().st_size for name in EMBEDDED for path in (ASSETS / name).iterdir())
    assert 10e6 < size_bytes < 16e6


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_shipped_model_loads_in_8_bit_and_tells_sentences_apart(name: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    import lacos_st  # noqa: F401  (registers the 8-bit format)
    from lacos_st.linear import Embedding8bit

    folder = resolve(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"add_pooling_layer": False} if name == "bert-nano" else {}
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert isinstance(model.get_input_embeddings(), Embedding8bit)
    assert len(tokenizer) == model.config.vocab_size
    states = []
    for text in LANGUAGES[:-1]:
        with torch.no_grad():
            states.append(model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1))
    similarity = torch.nn.functional.cosine_similarity(torch.cat(states)[:, None], torch.cat(states)[None], dim=-1)
    assert similarity.isfinite().all()
    assert (similarity - torch.eye(len(states))).max() < 0.999


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_tokenizer_is_cased_lossless_and_adds_nothing_surprising(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(name))
    for text in LANGUAGES:
        ids = tokenizer(text)["input_ids"]
        if name == "bert-nano":
            assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            ids = ids[1:-1]
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer("The Turkey")["input_ids"] != tokenizer("the turkey")["input_ids"]
    special = ["<unk>", "<s>", "</s>", "<pad>", "<mask>"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_card_names_the_run_and_the_sources(name: str) -> None:
    card = (ASSETS / name / "README.md").read_text(encoding="utf-8")
    for words in ("held-out loss", "CC BY-NC 4.0", "What it is not", "none of it synthetic", "--model " + name):
        assert words in card
