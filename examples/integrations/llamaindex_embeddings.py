"""LlamaIndex: embeddings in a vector index."""

from __future__ import annotations

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentences import QUERY, SENTENCES, model_folder

import lacos_st  # noqa: F401


def search(model: str) -> list[str]:
    """The three sentences nearest to the query."""
    embedding = HuggingFaceEmbedding(model_name=model, device="cpu")  # the line
    index = VectorStoreIndex([TextNode(text=text) for text in SENTENCES], embed_model=embedding)
    return [found.node.get_content() for found in index.as_retriever(similarity_top_k=3).retrieve(QUERY)]


if __name__ == "__main__":
    print("\n".join(search(model_folder())))
