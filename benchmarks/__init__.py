"""Figures that the README quotes: each script appends one row to `benchmarks/results/NAME.jsonl`."""
