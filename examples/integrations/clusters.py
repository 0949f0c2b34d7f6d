"""scikit-learn: k-means of sentence embeddings."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer
from sentences import SENTENCES, SUBJECTS, model_folder
from sklearn.cluster import KMeans

import lacos_st  # noqa: F401


def clusters(model: str) -> list[int]:
    """The cluster of each sentence."""
    vectors = SentenceTransformer(model, device="cpu").encode(SENTENCES, normalize_embeddings=True)
    return [int(label) for label in KMeans(SUBJECTS, n_init=10, random_state=0).fit_predict(vectors)]


if __name__ == "__main__":
    for label, sentence in sorted(zip(clusters(model_folder()), SENTENCES, strict=True)):
        print(label, sentence)
