"""A fitted law."""

from __future__ import annotations

import pytest
import sweeps

from lacos_st.recipe.law_file import Laws, fit_laws


@pytest.fixture(scope="module")
def laws() -> Laws:
    return fit_laws({"full": sweeps.sweep()}, source="runs.csv", date="2026-01-02", forms=["ND"], bootstrap=8)
