"""A model behind HTTP: OpenAI's embeddings API, similarity, health, metrics and a page to try it."""
