"""TensorBoard and Weights & Biases, which the stock trainer tells what it logs: whether they are installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from lacos_st.errors import UserError

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""By the stock name in `report_to`; one of them does."""


def check_trackers(report_to: Sequence[str]) -> None:
    """That the stock trainer can report to each of them.

    Raises:
        UserError: its package is not installed.
    """
    for name in report_to:
        packages = PACKAGES.get(name, ())
        if packages and not any(find_spec(package) for package in packages):
            raise UserError(f"report_to is {name}, which is not installed: pip install {' or '.join(packages)}")
