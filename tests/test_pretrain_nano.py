from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
VOCABULARY = 300


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The example, imported as it runs: with its own folder on the path."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import pretrain_nano
    finally:
        sys.path.remove(str(EXAMPLES))
    return pretrain_nano


def write(path: Path, *rows: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def test_no_sentence_of_an_evaluation_set_stays_in_the_corpus(script: ModuleType, tmp_path: Path) -> None:
    from nano import corpus

    write(tmp_path / "sts/en/SICK.tsv", ("test", "3.0", "A man, is  Cooking", "A cat sleeps.", "NEUTRAL"))
    write(tmp_path / "sts/sts17/track3.es-es.tsv", ("4.8", "Un perro.", "El perro."))
    write(tmp_path / "sts/stsb_multi_mt/test.fr.tsv", ("1.0", "Une fille lit.", "Un homme lit."))
    write(tmp_path / "sts/stsb_multi_mt/train.fr.tsv", ("1.0", "Un train part.", "Le train part."))
    write(
        tmp_path / "nli/snli_sample18k.tsv",
        ("neutral", "a man is cooking .", "Someone eats."),
        ("neutral", "Un train part.", "un perro"),
        ("neutral", "UNE FILLE LIT", "A cat sleeps"),
    )
    kept, counts = corpus.documents(tmp_path, scale=100.0)
    assert sorted(kept) == [["Someone eats."], ["Un train part."]]
    assert counts.removed == 4
    with pytest.raises(FileNotFoundError, match="LACOS_DATA"):
        corpus.documents(tmp_path / "elsewhere")


def test_sentences_of_one_paragraph_are_joined_by_spaces_and_others_by_the_separator(script: ModuleType) -> None:
    from nano.corpus import _sentences, document_text

    assert document_text(_sentences("He left. She stayed!")) == "He left. She stayed!"
    assert document_text(["A dog.", "Un chien."]) == "A dog.</s>Un chien."


def test_blocks_hold_every_document_ended_by_its_separator(script: ModuleType) -> None:
    from nano.tokens import pack

    blocks = pack([[7, 8, 9], [10], [11, 12]], block_tokens=4)
    assert blocks.dtype == np.uint16
    assert blocks.tolist() == [[7, 8, 9, 2], [10, 2, 11, 12]]


def test_sampled_softmax_with_all_entries_is_the_full_softmax(script: ModuleType) -> None:
    from nano.objective import full_softmax_sum, sampled_softmax_loss

    hidden, weight = torch.randn(40, 16, requires_grad=True), torch.randn(VOCABULARY, 16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (40,))
    sampled = sampled_softmax_loss(hidden, targets, weight, others=VOCABULARY, generator=torch.Generator())
    full = cross_entropy(hidden @ weight.T, targets)
    assert sampled.item() == pytest.approx(full.item(), abs=1e-5)
    assert full_softmax_sum(hidden, targets, weight) == pytest.approx(40 * full.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(sampled, (hidden, weight)), torch.autograd.grad(full, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_sampled_partition_function_is_unbiased(script: ModuleType) -> None:
    from nano.objective import sampled_softmax_loss

    hidden, weight, targets = torch.randn(8, 16), 0.3 * torch.randn(VOCABULARY, 16), torch.arange(8)
    picked = (hidden * weight[targets]).sum(1)
    draws = []
    for seed in range(400):  # one target a call, so that loss + its logit is the logarithm of the estimate
        loss = sampled_softmax_loss(
            hidden[:1], targets[:1], weight, others=30, generator=torch.Generator().manual_seed(seed)
        )
        draws.append((loss + picked[0]).exp())
    expected = (hidden[:1] @ weight.T).exp().sum()
    assert torch.stack(draws).mean().item() == pytest.approx(expected.item(), rel=0.03)


def test_masking_spares_special_tokens_and_keeps_bert_shares(script: ModuleType) -> None:
    from nano.objective import MASK_ID, mask_tokens

    blocks = torch.randint(0, VOCABULARY, (200, 128))
    masked, chosen = mask_tokens(
        blocks, probability=0.2, vocabulary=VOCABULARY, generator=torch.Generator().manual_seed(0)
    )
    assert not chosen[blocks < 5].any()
    assert chosen[blocks >= 5].float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (masked[~chosen] == blocks[~chosen]).all()
    assert (masked[chosen] == MASK_ID).float().mean().item() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("name", ["bloom-nano", "bert-nano"])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    script: ModuleType, name: str, tmp_path: Path
) -> None:
    from nano.training import Pretraining, Settings

    blocks = np.random.default_rng(0).integers(5, VOCABULARY, (20, 16)).astype(np.uint16)
    settings = Settings(objective=script.OBJECTIVES[name], tokens=10 * 64, batch_blocks=4, warmup_steps=2, others=50)

    def start(folder: str) -> Pretraining:
        torch.manual_seed(0)
        model = script.build(name, hidden=32, layers=2, heads=4, vocabulary=VOCABULARY)
        return Pretraining(model, blocks, blocks[:4], tmp_path / folder, settings, device="cpu")

    whole, part = start("whole"), start("part")
    before = {key: value.clone() for key, value in whole.model.state_dict().items()}
    loss = whole.run()
    part.run(until=lambda: part.step == 4)
    again = start("part")
    assert (again.step, part.step, again.total_steps) == (4, 4, 10)
    assert again.run() == loss
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    moved = [key for key, value in whole.model.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) > 20


def test_a_checkpoint_of_other_settings_is_refused(script: ModuleType, tmp_path: Path) -> None:
    from nano.training import Pretraining, Settings

    blocks = np.full((8, 16), 7, dtype=np.uint16)
    model = script.build("bloom-nano", hidden=32, layers=1, heads=4, vocabulary=VOCABULARY)
    settings = Settings(objective="causal", tokens=64, batch_blocks=4)
    Pretraining(model, blocks, blocks, tmp_path, settings, device="cpu").run()
    other = Settings(objective="causal", tokens=128, batch_blocks=4)
    assert Pretraining(model, blocks, blocks, tmp_path, other, device="cpu").total_steps == 1  # the decay had begun
    with pytest.raises(ValueError, match="peak_lr"):
        Pretraining(model, blocks, blocks, tmp_path, Settings("causal", 64, batch_blocks=4, peak_lr=1.0), device="cpu")


def test_the_learning_rate_warms_up_stays_and_decays(script: ModuleType) -> None:
    from nano.training import Settings, learning_rate

    settings = Settings(objective="causal", tokens=0, peak_lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, total_steps=100, settings=settings) for step in (0, 9, 50, 80, 90, 99)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.05])


def test_the_minutes_budget_begins_the_decay(script: ModuleType, tmp_path: Path) -> None:
    from nano.training import Pretraining, Settings

    blocks = np.full((8, 16), 7, dtype=np.uint16)
    model = script.build("bloom-nano", hidden=32, layers=1, heads=4, vocabulary=VOCABULARY)
    settings = Settings(objective="causal", tokens=10**6, minutes=0.0, batch_blocks=4)
    run = Pretraining(model, blocks, blocks, tmp_path, settings, device="cpu")
    run.run()
    assert run.step == run.total_steps == 2


def test_a_cut_tokenizer_falls_back_to_parts_and_stays_lossless(script: ModuleType) -> None:
    import json

    from nano.shipping import cut_tokenizer
    from nano.tokens import train_tokenizer
    from tokenizers import Tokenizer

    text = "the guitar and the gardener"
    whole = train_tokenizer([text] * 4, vocabulary=VOCABULARY)
    small = Tokenizer.from_str(json.dumps(cut_tokenizer(json.loads(whole.to_str()), 265)))
    assert small.get_vocab_size() == 265 < whole.get_vocab_size()
    assert len(small.encode(text).ids) > len(whole.encode(text).ids)
    assert small.decode(small.encode(text).ids) == text
