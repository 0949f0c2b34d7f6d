"""Tokenizer and packed blocks: text to the uint16 arrays that pretraining reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nano.corpus import Counts, Segments, document_text, documents
from nano.objective import END_ID, SPECIAL_TOKENS, START_ID

logger = logging.getLogger(__name__)

BLOCK_TOKENS = 128
# The sources' own codes of languages that occur under two names.
LANGUAGE = dict(
    part.split(":")
    for part in "fra:fr spa:es vie:vi ind:id cat:ca por:pt por-BR:pt pt-br:pt eus:eu hin:hi mal:ml urd:ur mar:mr "
    "ben:bn deu:de tel:te tam:ta swa:sw swh:sw arb:ar ara:ar cmn:zh zh-cn:zh zho-CN:zh zho-TW:zh tur:tr ita:it rus:ru "
    "nld:nl pol:pl glg:gl guj:gu ibo:ig kan:kn kin:rw nep:ne pan:pa wol:wo xho:xh yor:yo zul:zu".split()
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> Any:
    """A cased byte-level BPE `tokenizers.Tokenizer`, no normaliser; special tokens have BLOOM's ids, <mask> is 4."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, *, masked: bool, max_tokens: int) -> None:
    """Write the tokenizer of one model as `PreTrainedTokenizerFast` files.

    Args:
        tokenizer: from `train_tokenizer`.
        folder: written to.
        masked: also put <s> ... </s> around a text, as the masked model has seen it; the causal one sees plain text.
        max_tokens: length at which a text is cut.
    """
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    copy = Tokenizer.from_str(tokenizer.to_str())
    if masked:
        copy.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B </s>",
            special_tokens=[("<s>", START_ID), ("</s>", END_ID)],
        )
    unknown, start, end, pad, mask = SPECIAL_TOKENS
    names = dict(unk_token=unknown, bos_token=start, eos_token=end, pad_token=pad, mask_token=mask)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=copy,
        model_max_length=max_tokens,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **names,
    )
    fast.save_pretrained(str(folder))


def pack(encoded: Iterable[list[int]], *, block_tokens: int = BLOCK_TOKENS) -> np.ndarray:
    """Documents, each ended by </s>, as one stream in blocks: uint16 (blocks, block_tokens); a rest is dropped."""
    flat = [np.asarray([*ids, END_ID], dtype=np.uint16) for ids in encoded]
    stream = np.concatenate(flat) if flat else np.zeros(0, dtype=np.uint16)
    return stream[: len(stream) // block_tokens * block_tokens].reshape(-1, block_tokens)


def prepare(data: Path, work: Path, *, vocabulary: int, scale: float, seed: int, validation_blocks: int = 256) -> None:
    """Write ``tokenizer.json``, ``train.npy``, ``validation.npy`` and ``corpus.json`` (the counts) to `work`, once.

    Raises:
        ValueError: the text is too short for the validation blocks and as many to train on.
    """
    if (work / "corpus.json").exists():
        logger.info("%s is there: tokenizer and blocks are taken as they are", work / "corpus.json")
        return
    work.mkdir(parents=True, exist_ok=True)
    kept, counts = documents(data, scale=scale, seed=seed)
    logger.info("%d documents kept; %d sentences of evaluation sets removed", counts.documents, counts.removed)
    texts = [document_text(segments) for segments in kept]
    tokenizer = train_tokenizer((text.replace("</s>", "\n") for text in texts), vocabulary=vocabulary)
    tokenizer.save(str(work / "tokenizer.json"))
    blocks = pack(encoding.ids for encoding in tokenizer.encode_batch(texts))
    if len(blocks) < 2 * validation_blocks:
        raise ValueError(
            f"{len(blocks)} blocks of text: at least {2 * validation_blocks} are needed, raise --corpus-scale"
        )
    np.save(work / "validation.npy", blocks[-validation_blocks:])
    np.save(work / "train.npy", blocks[:-validation_blocks])
    report = _report(kept, counts, blocks)
    (work / "corpus.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    logger.info("%d tokens in %d blocks", blocks.size, len(blocks))


def _report(kept: list[Segments], counts: Counts, blocks: np.ndarray) -> dict[str, Any]:
    characters = sum(counts.characters.values())
    by_source: dict[str, float] = {}
    by_language: dict[str, float] = {}
    for (source, languages), count in counts.characters.items():
        by_source[source] = by_source.get(source, 0) + count / characters
        parts = languages.split("+")
        for language in parts:  # a document in two languages counts half for each
            language = LANGUAGE.get(language, language)
            by_language[language] = by_language.get(language, 0) + count / characters / len(parts)
    return {
        "documents": len(kept),
        "evaluation_sentences_removed": counts.removed,
        "characters": characters,
        "tokens": int(blocks.size),
        "share_of_characters_by_source": {k: round(v, 4) for k, v in sorted(by_source.items(), key=lambda x: -x[1])},
        "share_of_characters_by_language": {
            k: round(v, 4) for k, v in sorted(by_language.items(), key=lambda x: -x[1])
        },
    }
