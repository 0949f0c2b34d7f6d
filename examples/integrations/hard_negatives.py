"""Hard negatives for training, mined by sentence-transformers' own utility: near sentences of another subject."""

from __future__ import annotations

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives
from sentences import SENTENCES, model_folder

import lacos_st  # noqa: F401


def mine(model: str) -> Dataset:
    """Triplets (anchor, positive, negative), as `lacos-st train` and the stock losses take them."""
    pairs = {"anchor": SENTENCES[0::4], "positive": SENTENCES[1::4]}  # English and Spanish of each subject
    encoder = SentenceTransformer(model, device="cpu")
    return mine_hard_negatives(Dataset.from_dict(pairs), encoder, num_negatives=1, range_max=2, verbose=False)


if __name__ == "__main__":
    for row in mine(model_folder()):
        print(row)
