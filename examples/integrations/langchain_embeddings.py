"""LangChain: embeddings and a vector store in memory."""

from __future__ import annotations

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from sentences import QUERY, SENTENCES, model_folder

import lacos_st  # noqa: F401


def search(model: str) -> list[str]:
    """The three sentences nearest to the query."""
    embeddings = HuggingFaceEmbeddings(model_name=model)  # the line
    store = InMemoryVectorStore.from_texts(SENTENCES, embeddings)
    return [found.page_content for found in store.similarity_search(QUERY, k=3)]


if __name__ == "__main__":
    print("\n".join(search(model_folder())))
