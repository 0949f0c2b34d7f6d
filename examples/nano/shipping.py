"""Float checkpoints to the packaged models: 8-bit codes, tokenizer and a model card."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

BLOCK_SIZE = 256
# The rarest 384 entries stay behind: with them both folders together would pass 16 MB (16.16 MB, 2026-11-21).
SHIPPED_VOCABULARY = 16000
NAMES = ("bloom-nano", "bert-nano")

SOURCES = """\
| source | licence |
| --- | --- |
| Multi30k captions and their translations (Flickr30k) | research, non-commercial |
| SNLI | CC BY-SA 4.0 |
| XNLI | CC BY-NC 4.0 |
| IndoNLI | CC BY-SA 4.0 |
| ASSET | CC BY-NC 4.0 |
| MRPC | Microsoft Research, research |
| PAWS-X | free for any use, with attribution |
| NTREX-128 | CC BY-SA 4.0 |
| Tatoeba | CC BY 2.0 FR |
| Wikipedia paragraphs | CC BY-SA |
| LibreOffice help | MPL-2.0 |
"""

KIND = {
    "bloom-nano": "A causal decoder (transformers' `BloomModel`: ALiBi, 4 layers, hidden 256, 8 heads) pretrained on\n"
    "next tokens. It adds no special token to a text, as BLOOM does not.",
    "bert-nano": "A masked encoder (transformers' `BertModel`, no pooler: 4 layers, hidden 256, 8 heads) pretrained\n"
    "on masked tokens, 20 % of them. It is cased and multilingual and stands in for mBERT. A text is put between\n"
    "`<s>` and `</s>`.",
}


def ship(work: Path, out: Path) -> None:
    """Store the float models of `work` in the 8-bit format, each in its folder under `out`, with a card.

    Args:
        work: holds ``NAME-float``, ``NAME.json`` (where the run has ended) and ``corpus.json``.
        out: gets ``bloom-nano`` and ``bert-nano``; folders of those names are replaced once the new ones are complete.

    Raises:
        FileNotFoundError: a float model is missing.
    """
    for name in NAMES:
        source = work / f"{name}-float"
        if not (source / "config.json").exists():
            raise FileNotFoundError(f"{source} holds no model: train it with --model {name}, or write it with --export")
        draft = out / f".{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        store_8bit(source, draft)
        (draft / "README.md").write_text(card(name, work), encoding="utf-8")
        target = out / name
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        size = sum(path.stat().st_size for path in target.iterdir())
        logger.info("%s: %.2f MB", target, size / 1e6)


def store_8bit(source: Path, out: Path, *, vocabulary: int = SHIPPED_VOCABULARY) -> None:
    """Write a float checkpoint as 8-bit blocks, with its tokenizer, cut to the first `vocabulary` entries, to `out`."""
    from transformers import AutoModel

    import lacos_st

    config = lacos_st.Blockwise8bitConfig(block_size=BLOCK_SIZE)
    options = {} if "bloom" in source.name else {"add_pooling_layer": False}
    model = AutoModel.from_pretrained(str(source), **options)
    if vocabulary < model.config.vocab_size:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = AutoModel.from_pretrained(folder, quantization_config=config, **options)
    stored.save_pretrained(str(out))
    (out / "model.safetensors").chmod(0o644)
    shutil.copy(source / "tokenizer_config.json", out / "tokenizer_config.json")
    text = json.dumps(
        cut_tokenizer(_read(source / "tokenizer.json"), vocabulary), ensure_ascii=False, separators=(",", ":")
    )
    (out / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def cut_tokenizer(tokenizer: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """A BPE ``tokenizer.json`` without the entries from `vocabulary` on: BPE learns them last, and falls back to parts.

    Merges become strings, which `tokenizers` reads too and which take less room; no entry holds a space (byte level).
    """
    kept = {token: place for token, place in tokenizer["model"]["vocab"].items() if place < vocabulary}
    merges = [" ".join(pair) for pair in tokenizer["model"]["merges"] if "".join(pair) in kept]
    return {**tokenizer, "model": {**tokenizer["model"], "vocab": kept, "merges": merges}}


def card(name: str, work: Path) -> str:
    """The model card, from the figures that the corpus and the run wrote."""
    corpus = _read(work / "corpus.json")
    run = _read(work / f"{name}.json")
    languages = corpus.get("share_of_characters_by_language", {})
    shares = ", ".join(f"{code} {share:.1%}" for code, share in languages.items())
    sources = ", ".join(f"{key} {share:.1%}" for key, share in corpus.get("share_of_characters_by_source", {}).items())
    trained = (
        f"{run['tokens']:,} tokens ({run['steps']:,} steps) in {run['seconds']:,} s on {run['device']} with "
        f"{run['threads']} thread(s); held-out loss over the full vocabulary {run['held_out_loss_nats']} nats per "
        f"predicted token.\n\n    {run['command']}"
        if run
        else "an intermediate checkpoint: the run had not ended when this was written."
    )
    return f"""\
---
license: other
library_name: transformers
---

# {name}

{KIND[name]}

Vocabulary: {SHIPPED_VOCABULARY:,} byte-level BPE entries, the same in both models (they were trained with 384 more, the
rarest, which are left out here for size; the held-out loss below is of the whole float model). Weights are stored in
lacos_st's 8-bit blocks (dynamic code, block {BLOCK_SIZE}): `import lacos_st` before loading it with transformers.

**What it is for**: to run the LACoS-BLOOM experiment in miniature, offline and within minutes, and to test the package.
bloom-nano and bert-nano have equal size and saw equal tokens of the same text, so they can be compared with each other.

**What it is not**: a useful general model. It saw millions of tokens where BLOOM saw 366 billion, mostly captions and
short sentences. It cannot write, knows no facts, and its scores say nothing about models of ordinary size.

## Training

From scratch: {trained}

## Data

Real public text, none of it synthetic: {corpus.get("characters", 0):,} characters,
{corpus.get("tokens", 0):,} tokens, of which the run read the part stated above.
Every sentence of STS12-16, STS-B, SICK, STS17 and the translated STS-B (dev and test) was removed first, compared
without case, spacing and punctuation: {corpus.get("evaluation_sentences_removed", 0):,} sentences.
Captions, NLI and translation pairs stand beside one another in a document, divided by `</s>`.

Characters by language: {shares}.

Characters by source: {sources}.

{SOURCES}
Some sources are for research or non-commercial use only. The text itself is not distributed here; whether terms of a
text bind weights trained on it is not settled, so treat these weights as research material.
"""


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
