"""A corpus to embeddings: files in, shards out, in bounded memory, each row once and in order, after any kill."""
