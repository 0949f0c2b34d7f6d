"""faiss: an exact index, by cosine similarity."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
from sentence_transformers import SentenceTransformer
from sentences import QUERY, SENTENCES, asked, model_folder

import lacos_st  # noqa: F401


def search(model: str, sentences: Sequence[str] = SENTENCES, query: str = QUERY) -> list[str]:
    """The three sentences nearest to the query."""
    encoder = SentenceTransformer(model, device="cpu")
    index = faiss.IndexFlatIP(encoder.get_embedding_dimension())
    index.add(encoder.encode(sentences, normalize_embeddings=True))
    _, places = index.search(encoder.encode([query], normalize_embeddings=True), 3)
    return [sentences[place] for place in places[0]]


if __name__ == "__main__":
    print("\n".join(search(model_folder(), *asked())))
