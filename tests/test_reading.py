"""How a text is read: twice (echo), both ways (bidirectional attention), with a prompt before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer
from transformers import Gemma3TextConfig, Gemma3TextModel

from lacos_st import LoRA8bit, Pooling, UserError, encoder
from lacos_st.export.saved import SavedModel
from lacos_st.settings import TrainConfig
from lacos_st.training import train


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: tiny.save(tmp_path_factory.mktemp(name), name) for name in ("bloom", "llama", "bert")}


def stock_means(module: LoRA8bit, *, twice: bool, both_ways: bool) -> torch.Tensor:
    """Mean of a text's last hidden states, text by text, by the stock model: its second reading, if `twice`."""
    stock = type(tiny.model(module.config.model_type)).from_pretrained(module.base_name, attn_implementation="eager")
    stock.eval()
    found = []
    for text in tiny.SENTENCES:
        ids = module.tokenizer(text).input_ids
        if not ids:
            found.append(torch.zeros(module.get_embedding_dimension()))
            continue
        read = torch.tensor([ids * (1 + twice)])
        seen = torch.zeros(1, 1, read.shape[1], read.shape[1])
        mask = seen if both_ways else torch.ones_like(read)
        with torch.no_grad():
            found.append(stock(input_ids=read, attention_mask=mask).last_hidden_state[0, -len(ids) :].mean(0))
    return torch.stack(found)


@pytest.mark.parametrize(("architecture", "echo", "attention"), [
    ("bloom", True, "causal"),
    ("llama", True, "causal"),
    ("llama", False, "bidirectional"),
    ("llama", True, "bidirectional"),
    ("llama", False, "causal"),
])  # fmt: skip
@pytest.mark.parametrize("padded", [False, True])
def test_embeddings_are_those_of_the_stock_model_read_by_hand(
    bases: dict[str, str], architecture: str, echo: bool, attention: str, padded: bool
) -> None:
    model = encoder(bases[architecture], lora_rank=0, code=None, echo=echo, attention=attention, device="cpu")
    module = model[0]
    if padded:
        features = module.tokenizer(tiny.SENTENCES, padding=True, return_tensors="pt")
        with torch.no_grad():
            found = model(dict(features))["sentence_embedding"]
    else:
        found = model.encode(tiny.SENTENCES, convert_to_tensor=True)
    expected = stock_means(module, twice=echo, both_ways=attention == "bidirectional")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_ways_of_reading_differ_and_are_saved(bases: dict[str, str], tmp_path: Path) -> None:
    plain = encoder(bases["llama"], block_size=64, device="cpu").encode(["a man plays a guitar"])
    for name, options in {"echo": {"echo": True}, "both": {"attention": "bidirectional"}}.items():
        model = encoder(bases["llama"], block_size=64, device="cpu", **options)
        before = model.encode(["a man plays a guitar"])
        assert abs(before - plain).max() > 1e-2
        model.save_pretrained(str(tmp_path / name))
        loaded = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert (loaded.encode(["a man plays a guitar"]) == before).all()
        with pytest.raises(UserError, match="cannot be exported"):
            SavedModel.read(str(tmp_path / name))


def test_every_token_of_the_second_reading_sees_the_whole_text(bases: dict[str, str]) -> None:
    module = LoRA8bit(bases["llama"], block_size=64, echo=True)
    module.eval()
    firsts = []
    for text in ("a man plays a guitar", "a man plays a street"):
        with torch.no_grad():
            firsts.append(module(module.preprocess([text]))["token_embeddings"][0, 0])
    assert (firsts[0] - firsts[1]).abs().max() > 1e-3  # causal, once: the first token knows nothing of the last
    module.echo = False
    with torch.no_grad():
        once = [module(module.preprocess([text]))["token_embeddings"][0, 0] for text in ("a man", "a street")]
    torch.testing.assert_close(once[0], once[1])


def test_what_cannot_look_both_ways_is_refused(bases: dict[str, str]) -> None:
    with pytest.raises(UserError, match="ALiBi is defined for earlier tokens only; leave it"):
        encoder(bases["bloom"], block_size=64, attention="bidirectional")
    with pytest.raises(UserError, match='attention="sideways" is unknown'):
        encoder(bases["llama"], block_size=64, attention="sideways")
    bert = encoder(bases["bert"], block_size=64, attention="bidirectional", device="cpu")
    assert (bert.encode(["a man"]) == encoder(bases["bert"], block_size=64, device="cpu").encode(["a man"])).all()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of the length of texts."""
    return [record.getMessage() for record in caplog.records if record.name == "lacos_st.lengths"]


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_two_readings_fit_the_positions(
    bases: dict[str, str], architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = encoder(bases[architecture], block_size=64, device="cpu", echo=True)
    assert model.max_seq_length == 32 and not said(caplog)
    long = "a man plays a guitar " * 30
    assert abs(model.encode([long]) - model.encode([long + "again"])).max() == 0
    model.save_pretrained(str(tmp_path / "saved"))
    assert (SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode([long]) == model.encode([long])).all()
    assert encoder(bases[architecture], block_size=64, echo=True, max_seq_length=8).max_seq_length == 8
    assert not said(caplog)
    assert encoder(bases[architecture], block_size=64, echo=True, max_seq_length=60).max_seq_length == 32
    assert said(caplog) == ["texts are cut after 32 tokens: the base has 64 positions, and echo reads each text twice"]
    model.max_seq_length = 64
    with pytest.raises(UserError, match="a text of 64 tokens is too long: .* twice; set max_seq_length=32"):
        model.encode([long])


def gemma(folder: Path, *, layers: tuple[str, ...] = ("sliding_attention", "full_attention")) -> str:
    """A base of 256 positions that attends within 32 tokens in some of its layers."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, intermediate_size=128, max_position_embeddings=256, sliding_window=32, layer_types=list(layers),
    )  # fmt: skip
    Gemma3TextModel(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_window_limits_a_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = gemma(tmp_path / "base")
    long = ["x " * 100]
    model = encoder(base, block_size=64, device="cpu")
    assert model.max_seq_length == 32
    assert said(caplog) == ["texts are cut after 32 tokens: the base attends within a window of 32 tokens"]
    assert model.encode(long).shape == (1, 64)
    twice = encoder(base, block_size=64, device="cpu", echo=True)
    assert twice.max_seq_length == 16
    assert twice.encode(long).shape == (1, 64)
    model.max_seq_length = twice.max_seq_length = 32
    assert model.encode(long).shape == (1, 64)
    with pytest.raises(UserError, match="window of 32 tokens, and echo reads each text twice; set max_seq_length=16"):
        twice.encode(long)
    model.max_seq_length = 33
    with pytest.raises(UserError, match="a text of 33 tokens is too long: .* window of 32 tokens; set .*=32"):
        model.encode(long)
    whole = encoder(gemma(tmp_path / "whole", layers=("full_attention",) * 2), block_size=64, device="cpu")
    assert whole.max_seq_length == 256


def test_a_trained_model_reads_as_it_was_trained(bases: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f"{text} {n}\t{text} again {n}\n" for text in tiny.SENTENCES if text for n in range(4))
    (tmp_path / "pairs.tsv").write_text(rows, encoding="utf-8")
    config = TrainConfig.from_mapping({
        "base": bases["llama"], "data": str(tmp_path / "pairs.tsv"), "output": str(tmp_path / "run"),
        "block_size": 64, "batch_size": 8, "max_steps": 2, "eval_rows": 0, "cpu": True, "progress": False,
        "echo": True, "attention": "bidirectional", "prompt": "meaning: ", "matryoshka_dims": [16],
    })  # fmt: skip
    model = train(config).model
    loaded = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert loaded[0].echo and loaded[0].attention == "bidirectional"
    embedded = loaded.encode(["a man"])
    assert (embedded == model.encode(["a man"])).all()
    assert (embedded == loaded.encode(["meaning: a man"], prompt="")).all()
    assert abs(embedded - loaded.encode(["a man"], prompt="")).max() > 1e-3
    assert isinstance(loaded[1], Pooling)
