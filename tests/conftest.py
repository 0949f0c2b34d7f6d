"""What all tests share: no network, fixed seeds, few threads, tiny bases, the development data where there is any."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a fork after tokenizing would warn

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

DATA = Path(os.environ.get("LACOS_DATA", Path(__file__).parents[1] / "../shared/data"))


def pytest_configure(config: pytest.Config) -> None:
    """Small products lose time on more threads; processes of pytest-xdist take a core each."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for a test whether it runs alone or after others."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_bloom_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BLOOM of two random layers with its tokenizer, to be read only."""
    return tiny.save(tmp_path_factory.mktemp("tiny-bloom"))


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of two random layers with the same tokenizer, to be read only."""
    return tiny.save(tmp_path_factory.mktemp("tiny-bert"), "bert")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of development data, or a skip."""
    if not (DATA / "sts").is_dir():
        pytest.skip(f"no development data under {DATA}: set LACOS_DATA to the folder that holds sts/ and nli/")
    return DATA


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, or a skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
