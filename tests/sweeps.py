"""Runs of a sweep that was never run: losses from a known law, with the noise of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lacos_st.recipe.forms import FormName, law_loss
from lacos_st.recipe.runs_table import Run, show_setting

CHINCHILLA = {"C": 0.4, "A": 60.0, "B": 400.0, "a": 0.35, "b": 0.4}
SHARED = {"C": 0.4, "a_d": 1.0, "b_d": 40.0, "a": 0.35, "a_s": 200.0, "b_s": 2.0, "c_s": 300.0, "b": 0.4}
BUDGETS = tuple(np.geomspace(1e12, 3e14, 5).tolist())
SIZES = tuple(int(size) for size in np.geomspace(2e4, 1e7, 7))


def sweep(
    *,
    constants: Mapping[str, float] = CHINCHILLA,
    form: FormName = "ND",
    method: str = "full",
    sizes: Sequence[int] = SIZES,
    budgets: Sequence[float] = BUDGETS,
    shares: Sequence[float] = (1.0,),
    seeds: int = 2,
    noise: float = 0.005,
    seed: int = 0,
) -> list[Run]:
    """One run for each size, share of trained parameters, budget and seed; `noise` is the deviation of log-loss."""
    generator = np.random.default_rng(seed)
    runs = []
    for size in sizes:
        for share in shares:
            trained = int(share * size)
            for budget in budgets:
                tokens = budget / (2 * size + 4 * trained)
                where = {"parameters": size, "tokens": tokens, "trainable": trained / size}
                expected = law_loss(form, constants, **{name: np.array(value) for name, value in where.items()})
                for number in range(seeds):
                    loss = float(expected) * float(np.exp(noise * generator.standard_normal()))
                    setting = show_setting({"lr": 1e-3, "share": share})
                    counts = (size, size, trained, trained, tokens)
                    runs.append(Run("toy", *counts, method, setting, budget, loss, None, None, number, "abc1234"))
    return runs
