"""BERTopic: what a pile of sentences is about, each topic with its words.

Its usual UMAP and HDBSCAN want hundreds of sentences; PCA and k-means do with few, and are quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

from bertopic import BERTopic
from sentence_transformers import SentenceTransformer
from sentences import SENTENCES, SUBJECTS, asked, model_folder
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

import lacos_st  # noqa: F401


def topics(model: str, sentences: Sequence[str] = SENTENCES) -> tuple[list[int], dict[int, list[str]]]:
    """The topic of each sentence, and the words of each topic."""
    count = max(SUBJECTS, isqrt(len(sentences) // 2))
    found = BERTopic(
        embedding_model=SentenceTransformer(model, device="cpu"),
        umap_model=PCA(n_components=min(5, len(sentences) - 1), random_state=0),
        hdbscan_model=KMeans(min(count, len(sentences)), n_init=10, random_state=0),
    )
    labels, _ = found.fit_transform(list(sentences))
    words = {topic: [word for word, _ in found.get_topic(topic) if word] for topic in sorted(set(labels))}
    return [int(label) for label in labels], words


if __name__ == "__main__":
    sentences, _ = asked()
    labels, words = topics(model_folder(), sentences)
    for topic, named in words.items():
        print(f"{topic}: {', '.join(named[:6])}")
        print("\n".join(f"    {text}" for label, text in zip(labels, sentences, strict=True) if label == topic))
