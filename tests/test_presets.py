"""What a preset fills in, and what it leaves to who gives options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from lacos_st.errors import UserError
from lacos_st.presets import LEARNING_RATES, PRESETS, described, fill, learning_rate, without_filled
from lacos_st.recipe.published import published_shape
from lacos_st.settings import TrainConfig


def configure(**options: Any) -> TrainConfig:
    return TrainConfig.from_mapping({"base": "b", "data": "d", "output": "o", **options})


def test_the_recipe_is_the_papers_protocol() -> None:
    """papers.md, section 2: symmetric InfoNCE at temperature 0.025, batch 1024, context 75, decay 0.1, ..."""
    config = configure(preset="recipe", method="lora").resolved()
    assert 1 / config.scale == 0.025
    assert (config.symmetric, config.batch_size, config.max_seq_length, config.pooling) == (True, 1024, 75, "mean")
    assert (config.optimizer, config.weight_decay, config.warmup, config.scheduler) == ("adamw", 0.1, 0.1, "cosine")
    assert (config.lr, config.lora_rank, config.lora_targets) == (1e-3, 128, ("recipe",))


def test_what_is_given_stands() -> None:
    config = configure(
        preset="recipe", method="lora", batch_size="64", lr=2e-3, lora_rank=8, symmetric=False
    ).resolved()
    assert (config.batch_size, config.lr, config.lora_rank, config.symmetric) == (64, 2e-3, 8, False)
    assert configure(preset="recipe", max_seq_length=None).max_seq_length is None
    assert config.scale == 40.0


def test_the_default_is_the_first_paper() -> None:
    config = configure().resolved()
    assert config == configure(preset="paper").resolved()
    assert (config.preset, config.lr, config.lora_rank, config.scale, config.symmetric) == (
        "paper",
        1e-4,
        4,
        20.0,
        False,
    )
    assert (config.batch_size, config.optimizer, config.lora_targets) == (32, "adam8bit", ("paper",))


def test_a_written_run_is_read_as_it_was(tmp_path: Any) -> None:
    config = replace(configure(preset="recipe", method="full", batch_size=64).resolved(), lr=6e-5)
    (tmp_path / "train.yaml").write_text(config.to_yaml())
    assert TrainConfig.from_yaml(tmp_path / "train.yaml") == config == config.resolved()


# papers.md, section 2
@pytest.mark.parametrize(
    ("size", "lr"),
    [
        ("14m", 1e-4),
        ("31m", 1e-4),
        ("70m", 1e-4),
        ("160m", 6e-5),
        ("410m", 3e-5),
        ("1b", 3e-5),
        ("1.4b", 2e-5),
        ("2.8b", 1.6e-5),
    ],
)
def test_learning_rates_are_the_papers(size: str, lr: float) -> None:
    parameters = published_shape(f"pythia-{size}").without_embedding
    assert learning_rate(parameters) == (lr, f"pythia-{size}")
    assert (f"pythia-{size}", parameters, lr) in LEARNING_RATES


def test_other_sizes_take_that_of_the_nearest() -> None:
    assert learning_rate(200_000) == (1e-4, "pythia-14m")
    assert learning_rate(published_shape("bloom-560m").without_embedding) == (3e-5, "pythia-410m")
    assert learning_rate(published_shape("bloom-7b1").without_embedding) == (1.6e-5, "pythia-2.8b")
    middle = (18_915_328 * 85_056_000) ** 0.5  # by ratio, not by difference
    assert learning_rate(int(middle) - 1)[1] == "pythia-70m"
    assert learning_rate(int(middle) + 1)[1] == "pythia-160m"


@pytest.mark.parametrize("method", ["full", "freeze", "bias"])
def test_the_rate_by_size_is_left_open_until_the_base_is_known(method: str) -> None:
    options = {"frozen_blocks": 1} if method == "freeze" else {}
    assert configure(preset="recipe", method=method, **options).resolved().lr is None


def test_every_preset_fills_options_that_exist() -> None:
    for name, preset in PRESETS.items():
        config = TrainConfig.from_mapping({"base": "b", "data": "d", "output": "o", "preset": name})
        assert {key: getattr(config, key) for key in preset.values} == dict(preset.values)
    assert fill({"preset": "no such", "lr": 1}) == {"preset": "no such", "lr": 1}


def test_what_is_said_of_a_preset() -> None:
    text = described(configure().resolved(), adapters=True)
    assert text.startswith("preset paper (LACoS-BLOOM, arXiv 2305.06404): ")
    assert "given instead" not in text
    assert "lora_rank 4" in text
    config = configure(preset="recipe", method="full", scale=20).resolved()
    chosen, _, given = described(replace(config, lr=6e-5), adapters=False, nearest="pythia-160m").partition("; given")
    assert "lr 6e-05 (that of pythia-160m, the nearest in size)" in chosen
    assert given == " instead: scale 20"


def test_best_is_for_adapters() -> None:
    config = configure(preset="best").resolved()
    assert (config.method, config.lora_rank, config.pooling, config.scale) == ("lacos", 16, "lasttoken", 50.0)
    lora = configure(preset="best", method="lora", scale=20).resolved()
    assert (lora.lr, lora.lora_targets) == (config.lr, ("all-linear",))
    assert "given instead: scale 20" in described(lora, adapters=True)
    with pytest.raises(UserError, match="preset best says nothing of method sbert: choose another, or lacos, lora"):
        configure(preset="best", method="sbert").resolved()


def test_sbert_is_none_of_the_recipes_methods() -> None:
    with pytest.raises(UserError, match="says nothing of method sbert: choose another, or bias, freeze, full"):
        configure(preset="recipe", method="sbert").resolved()


def written(**options: Any) -> dict[str, Any]:
    """As `train.yaml` holds a run: every option."""
    config = configure(**options).resolved()
    return dict(yaml.safe_load(config.to_yaml()))


def under(new: str, values: dict[str, Any], **given: Any) -> tuple[TrainConfig, list[str]]:
    kept, others = without_filled(values, TrainConfig.from_mapping(values), new=new)
    return TrainConfig.from_mapping({**kept, **given, "preset": new}).resolved(), others


def test_what_one_preset_filled_in_gives_way_to_another() -> None:
    for new in PRESETS:
        for old in PRESETS:
            assert under(new, written(preset=old, seed=7)) == (configure(preset=new, seed=7).resolved(), [])


def test_what_a_file_says_of_its_own_stays_and_is_named() -> None:
    config, others = under("best", written(scale=30, lora_rank=8, lr=3e-4, dtype="bfloat16", batch_size=64))
    assert (config.scale, config.lora_rank, config.lr, config.dtype) == (30.0, 8, 3e-4, "bfloat16")
    assert (config.batch_size, config.pooling, config.symmetric) == (64, "lasttoken", True)
    assert others == ["lora_rank", "scale", "lr"]


def test_a_rate_by_size_and_no_adapters_give_way_too() -> None:
    values = {**written(preset="recipe", method="full"), "lr": 3e-5}
    assert under("paper", values) == (configure(method="full").resolved(), [])
    assert under("recipe", written(method="full"))[0].lr is None
    assert under("best", values, method="lacos")[0] == configure(preset="best").resolved()
