"""Streaming sets train and validate as sets in memory do, or a message says what to set."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.data import SequentialSampler

from lacos_st import encoder
from lacos_st.errors import UserError
from lacos_st.streams import check_streams, read_by_each_
from lacos_st.trainer import LacosTrainer

WORDS = "man dog park guitar street walks".split()


def rows(count: int, *, shift: int = 0) -> Dataset:
    texts = [" ".join(WORDS[(i + shift + k) % 6] for k in range(1 + (i + shift) % 5)) + f" {i}" for i in range(count)]
    return Dataset.from_dict({"anchor": texts, "positive": [f"a {text}" for text in texts]})


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    """Batches in the order of the rows, as a stream has them."""
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def trainer(kind: type[SentenceTransformerTrainer], base: str, folder: Path, **sets: Any) -> SentenceTransformerTrainer:
    torch.manual_seed(0)
    model = encoder(base, device="cpu", block_size=64, lora_rank=2)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=4, per_device_eval_batch_size=4,
        learning_rate=1e-2, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
        batch_sampler=in_order,
    )  # fmt: skip
    return kind(model=model, args=arguments, loss=MultipleNegativesRankingLoss(model), **sets)


@pytest.mark.filterwarnings("ignore")  # of stock: a stream takes no batch sampler
@pytest.mark.parametrize("architecture", ["bloom", "bert"])
def test_a_stream_trains_and_validates_as_a_set_in_memory(
    architecture: str, tiny_bloom_dir: str, tiny_bert_dir: str, tmp_path: Path
) -> None:
    base = {"bloom": tiny_bloom_dir, "bert": tiny_bert_dir}[architecture]
    found = []
    for made in (Dataset, IterableDataset):
        train, held_out = rows(12), rows(7, shift=3)
        if made is IterableDataset:
            train, held_out = train.to_iterable_dataset(), held_out.to_iterable_dataset()
        run = trainer(LacosTrainer, base, tmp_path, train_dataset=train, eval_dataset=held_out)
        run.train()
        losses = [row["loss"] for row in run.state.log_history if "loss" in row]
        found.append([*losses, *(run.evaluate()["eval_loss"] for _ in range(2))])
    assert len(found[0]) == 5
    assert found[1] == pytest.approx(found[0], abs=1e-6)


def test_in_memory_batches_weigh_as_with_stock(tiny_bloom_dir: str, tmp_path: Path) -> None:
    def in_threes(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(SequentialSampler(dataset), batch_size=3, drop_last=drop_last)

    losses = []
    for kind in (SentenceTransformerTrainer, LacosTrainer):
        run = trainer(kind, tiny_bloom_dir, tmp_path, train_dataset=rows(4), eval_dataset=rows(7, shift=3))
        run.args.batch_sampler = in_threes  # of batches of four, as where no text may stand twice
        losses.append(run.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_stock_trainer_is_told_what_to_set(tiny_bloom_dir: str, tmp_path: Path) -> None:
    run = trainer(SentenceTransformerTrainer, tiny_bloom_dir, tmp_path, train_dataset=rows(12).to_iterable_dataset())
    with pytest.raises(UserError, match=r'LacosTrainer, or .* accelerator_config=\{"dispatch_batches": False\}'):
        run.train()


def test_a_batch_without_texts_is_none_without_sentences(tiny_bloom_dir: str) -> None:
    model: SentenceTransformer = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=2)
    nothing = {"input_ids": torch.zeros(1, 0, dtype=torch.long), "cu_seq_lens_q": torch.zeros(1, dtype=torch.int32)}
    assert model[0](dict(nothing))["token_embeddings"].shape[:2] == (1, 0)
    with pytest.raises(UserError, match="without its sentences"):
        model[0]({**nothing, "input_ids": torch.ones(1, 3, dtype=torch.long)})


def arguments(dispatch: bool | None) -> Any:
    return SimpleNamespace(accelerator_config=SimpleNamespace(dispatch_batches=dispatch))


def test_who_reads_a_stream_is_the_users_to_say() -> None:
    for given, processes, expected in ((None, 1, False), (True, 1, True), (None, 2, None)):
        read_by_each_(made := arguments(given), processes=processes)
        assert made.accelerator_config.dispatch_batches is expected


def test_several_processes_are_dealt_no_stream() -> None:
    here, stream = rows(4), rows(4).to_iterable_dataset()
    check_streams(stream, stream, arguments(None), processes=1)
    check_streams(here, {"a": here}, arguments(None), processes=2)
    check_streams(stream, None, arguments(False), processes=2)
    with pytest.raises(UserError, match="training set is a stream, .*dispatch_batches"):
        check_streams(stream, here, arguments(None), processes=2)
    with pytest.raises(UserError, match="validation set is a stream, which 2 processes"):
        check_streams(here, {"a": stream}, arguments(False), processes=2)
