"""Options of other methods are named when a run starts."""

from __future__ import annotations

from typing import Any

import pytest

from lacos_st.errors import UserError
from lacos_st.settings import TrainConfig
from lacos_st.training import train
from lacos_st.unheeded import METHODS, unheeded

LORA = {"lora_alpha": 8, "lora_dropout": 0.1, "lora_targets": ["all-linear"], "adapter_dtype": "bfloat16"}
GIVEN: dict[str, Any] = {**LORA, "code": "linear", "block_size": 64, "scale": 30}


def configure(**options: Any) -> TrainConfig:
    blocks = {"frozen_blocks": 1} if options.get("method") == "freeze" else {}
    return TrainConfig.from_mapping({"base": "b", "data": "d", "output": "o", **blocks, **options}).resolved()


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("lacos", []),
        ("lora", ["code", "block_size"]),
        *((method, [*LORA, "code", "block_size"]) for method in ("full", "freeze", "bias")),
        ("sbert", [*LORA, "code", "block_size", "scale"]),
    ],
)
def test_what_a_method_does_not_use(method: str, expected: list[str]) -> None:
    assert unheeded(configure(method=method, **GIVEN)) == expected
    assert unheeded(configure(method=method)) == []
    assert set(GIVEN) == set(METHODS)


def test_what_a_preset_fills_in_was_not_given() -> None:
    assert unheeded(configure(method="full", preset="recipe", lora_dropout=0.0)) == []
    assert unheeded(configure(method="full", preset="recipe", lora_targets=["all-linear"])) == ["lora_targets"]


def test_a_run_names_them_once(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = configure(base=str(tmp_path / "none"), method="sbert", scale=30, block_size=64)
    with pytest.raises(UserError):
        train(config)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["method sbert does not use block_size, scale: what is given for it has no effect"]
