"""A multilingual base trained on pairs of many languages, against the same base trained on English pairs alone."""
