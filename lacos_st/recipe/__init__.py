"""From a budget to a run: what a model is made of, what training it costs in FLOP and what it takes in memory.

Nothing here knows the modules of the package or loads a weight: everything follows from a configuration.
"""
