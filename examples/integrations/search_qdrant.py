"""Qdrant, embedded in the process: a collection with the sentences as payload."""

from __future__ import annotations

from collections.abc import Sequence

from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams
from sentence_transformers import SentenceTransformer
from sentences import QUERY, SENTENCES, asked, model_folder

import lacos_st  # noqa: F401


def search(model: str, sentences: Sequence[str] = SENTENCES, query: str = QUERY) -> list[str]:
    """The three sentences nearest to the query."""
    encoder = SentenceTransformer(model, device="cpu")
    client = QdrantClient(":memory:")  # path="FOLDER" keeps it
    size = encoder.get_embedding_dimension()
    client.create_collection("sentences", vectors_config=VectorParams(size=size, distance=Distance.COSINE))
    vectors = encoder.encode(sentences)
    points = [
        PointStruct(id=number, vector=vector.tolist(), payload={"text": text})
        for number, (text, vector) in enumerate(zip(sentences, vectors, strict=True))
    ]
    client.upsert("sentences", points)
    found = client.query_points("sentences", query=encoder.encode(query).tolist(), limit=3).points
    client.close()
    return [str(point.payload["text"]) for point in found if point.payload]


if __name__ == "__main__":
    print("\n".join(search(model_folder(), *asked())))
