from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lacos_st.errors import UserError
from lacos_st.recipe.grid import Grid, parse_method, training_options
from lacos_st.recipe.runs_table import METHODS, read_setting, show_setting
from lacos_st.recipe.shapes import ModelShape, shape_of
from lacos_st.recipe.trials import Supply, Trial, remaining, trials

OPTIONS: dict[str, Any] = {
    "family": "tiny",
    "bases": ["small", "large"],
    "budgets": [1e9, "10 GFLOP"],
    "methods": ["full lr=1e-3", "lora rank=2", "freeze frozen_share=0.5", "bias lr=1e-2"],
    "data": "pairs.tsv",
    "output": "runs.csv",
    "held_out_rows": 8,
    "held_out_batch": 4,
    "train": {"batch_size": 4, "symmetric": True, "lr": 2e-3},
}
SUPPLY = Supply(pairs=1000, tokens=20_000)


def grid(**changes: Any) -> Grid:
    return Grid.from_mapping({**OPTIONS, **changes})


@pytest.fixture(scope="module")
def shapes() -> dict[str, ModelShape]:
    return {name: shape_of(tiny.model(hidden=hidden).config) for name, hidden in (("small", 32), ("large", 64))}


def plan(shapes: dict[str, ModelShape], **changes: Any) -> list[Trial]:
    asked = grid(**changes)
    return trials(asked, shapes, lambda config: SUPPLY)


def test_every_combination_once_smaller_budgets_first(shapes: dict[str, ModelShape]) -> None:
    found = plan(shapes, bases=["large", "small"])
    assert len(found) == len({trial.key for trial in found}) == 2 * 2 * 4 * 2
    order = [(trial.budget_flops, trial.seed, trial.parameters) for trial in found]
    assert order == sorted(order)
    assert {trial.setting for trial in found} == {"lr=0.001", "rank=2", "frozen_blocks=1", "lr=0.01"}


@pytest.mark.parametrize("method", METHODS)
def test_the_tokens_of_a_run_cost_its_budget(shapes: dict[str, ModelShape], method: str) -> None:
    setting = {"freeze": " frozen_blocks=1", "lora": " rank=3", "lacos": " rank=3"}.get(method, "")
    for trial in plan(shapes, methods=[method + setting]):
        shape = shapes[trial.base]
        n = shape.without_embedding
        # by hand, from the paper's table (papers.md, section 2)
        adapters = 3 * (sum(x.inputs + x.outputs for x in shape.linears if x.part == "feed_forward") + shape.hidden)
        half = sum(x.weights + x.outputs for x in shape.linears if x.block == 1) + 4 * shape.hidden + 2 * shape.hidden
        expected = {
            "full": 6 * n,
            "bias": 4 * n + 2 * shape.biases,
            "freeze": 2 * n + 4 * half,
            "lora": 4 * (n + adapters) + 2 * adapters,
            "lacos": 4 * (n + adapters) + 2 * adapters,
        }[method]
        assert trial.tokens * expected == pytest.approx(trial.budget_flops, rel=1e-12)
        row = trial.row(tokens=trial.tokens, commit="c", loss=1.0)
        assert row.flops_per_token * row.tokens == pytest.approx(trial.budget_flops, rel=1e-12)
        assert row.key == trial.key


def test_a_run_is_told_its_options(shapes: dict[str, ModelShape]) -> None:
    by_method = {trial.method: trial.config for trial in plan(shapes)}
    assert by_method["full"].lr == 1e-3
    assert (by_method["lora"].lora_rank, by_method["lora"].lr) == (2, 2e-3)  # the common rate where no other is given
    assert by_method["freeze"].frozen_blocks == 1
    assert all(config.symmetric and config.batch_size == 4 for config in by_method.values())


def test_a_budget_beyond_the_data_is_marked(shapes: dict[str, ModelShape]) -> None:
    found = plan(shapes, budgets=["1e9", "1e13"])
    assert {trial.reached for trial in found if trial.budget_flops == 1e9} == {True}
    assert {trial.reached for trial in found if trial.budget_flops == 1e13} == {False}


def test_what_has_a_row_is_not_run_again(shapes: dict[str, ModelShape]) -> None:
    found = plan(shapes)
    rows = [trial.row(tokens=1.0, commit="c", loss=1.0) for trial in found[3:7]]
    assert remaining(found, rows) == [*found[:3], *found[7:]]
    assert remaining(found, [replace(row, seed=9) for row in rows]) == found


def test_a_budget_too_small_names_the_smallest_that_works(shapes: dict[str, ModelShape]) -> None:
    with pytest.raises(UserError, match=r"8 of 32 runs .* one step of 4 pairs .*--leave-out-small") as caught:
        plan(shapes, budgets=["2e7", "1e9"])
    for_all, for_one = re.findall(r"for (?:all is|one of them) (\S+) FLOP", str(caught.value))
    assert len(plan(shapes, budgets=[for_all, "1e9"])) == 32
    assert len(plan(shapes, budgets=["2e7", "1e9"], leave_out_small=True)) == 32 - 8
    assert len(plan(shapes, budgets=[for_one, "1e9"], leave_out_small=True)) > 32 - 8
    below = [f"{0.9 * float(text):g}" for text in (for_all, for_one)]
    assert len(plan(shapes, budgets=[below[0], "1e9"], leave_out_small=True)) < 32
    with pytest.raises(UserError, match="32 of 32 runs") as caught:
        plan(shapes, budgets=["1000", "2000"], leave_out_small=True)
    assert "--leave-out-small" not in str(caught.value)


def test_bases_of_one_size_and_settings_that_are_one(shapes: dict[str, ModelShape]) -> None:
    with pytest.raises(UserError, match="small and again both have|again and small both have"):
        trials(
            grid(bases=["small", "again"]), dict.fromkeys(("small", "again"), shapes["small"]), lambda config: SUPPLY
        )
    with pytest.raises(UserError, match="come to the same .*frozen_blocks=1"):
        plan(shapes, methods=["freeze frozen_share=0.5", "freeze frozen_blocks=1"])


@given(
    st.sampled_from(METHODS),
    st.dictionaries(st.sampled_from(["lr", "rank", "weight_decay"]), st.floats(1e-6, 1e3) | st.integers(0, 512)),
)
def test_a_setting_survives_the_table(method: str, setting: dict[str, float]) -> None:
    text = show_setting(setting)
    assert parse_method(f"{method} {text}") == (method, {k: pytest.approx(v, rel=1e-5) for k, v in setting.items()})
    assert read_setting(text) == {key: pytest.approx(value, rel=1e-5) for key, value in setting.items()}


@given(st.text().filter(lambda text: text != "none"))
@example("query ")
@example("query: ")
@example("a: b: c")
@example("123")
@example("true")
@example("null")
@example("[x")
@example("")
def test_a_text_is_taken_as_it_stands(prompt: str) -> None:
    for train in ({"prompt": prompt}, [f"prompt={prompt}"]):
        asked = grid(train=train)
        assert asked.config(base="b", method="full", setting={}, seed=0).prompt == prompt
        written = yaml.safe_load(yaml.safe_dump(list(asked.train)))  # as the conditions are
        assert training_options(written) == {"prompt": prompt}


def test_other_options_are_taken_by_their_type() -> None:
    values = {"lora_targets": ["a", "123", "é 😀"], "lr": 1e-5, "prompt": None, "max_seq_length": None, "echo": True}
    config = grid(train=values).config(base="b", method="lora", setting={}, seed=0)
    assert {name: getattr(config, name) for name in values} == {**values, "lora_targets": ("a", "123", "é 😀")}
    given = ["batch_size=8", "lora_targets=[a, b]", "symmetric=true", "revision=1e5", "autocast=none"]
    config = grid(train=given).config(base="b", method="lora", setting={}, seed=0)
    assert (config.batch_size, config.lora_targets, config.symmetric) == (8, ("a", "b"), True)
    assert (config.revision, config.autocast) == ("1e5", None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": ["fast"]}, "cannot be read"),
        ({"budgets": [1e9, "1e9"]}, "twice"),
        ({"budgets": []}, "budgets is empty"),
        ({"methods": ["sbert"]}, "expected one of full, freeze, bias, lora, lacos"),
        ({"methods": ["lora rank"]}, "expected name=number"),
        ({"methods": ["lora rank=2 rank=3"]}, "stands there twice"),
        ({"methods": ["lora rank=2", "lora  rank=2"]}, "twice"),
        ({"methods": ["lora range=2"]}, "unknown option 'range'"),
        ({"methods": ["full rank=2"]}, "has no adapters"),
        ({"methods": ["freeze"]}, "needs frozen_blocks"),
        ({"methods": ["lora rank=8 frozen_share=0.5"]}, "is for freeze"),
        ({"methods": ["freeze frozen_share=1"]}, "below 1"),
        ({"methods": ["lora scale=20", "lora scale=40"]}, "scale is for every run"),
        ({"methods": ["lora matryoshka_dims=16", "lora"]}, "matryoshka_dims is for every run"),
        ({"methods": ["lora max_rows=20"]}, "max_rows is for every run"),
        ({"methods": ["lora max_steps=2"]}, "max_steps is set by the sweep itself"),
        ({"methods": ["lora seed=2"]}, "seed is set by the sweep itself"),
        ({"seeds": ["-1"]}, "whole numbers"),
        ({"seeds": [0, 0]}, "twice"),
        ({"train": {"epochs": 2}}, "set by the sweep itself"),
        ({"train": ["batch_size"]}, "expected name=value"),
        ({"train": ["batch_size=2", "batch_size=4"]}, "batch_size stands there twice"),
        ({"train": ["lora_targets=[x"]}, "expected a value, or a list"),
        ({"train": {"warmup": "2026-13-01"}}, "expected a value, or a list"),
        ({"train": {"prompt": 123}}, "prompt is 123: expected text"),
        ({"train": {"prompt": {"query": None}}}, "expected text, in quotes"),
        ({"train": {"batch": 2}}, "unknown option 'batch'"),
        ({"held_out_rows": 6}, "a multiple of it"),
        ({"held_out_batch": 1}, "held_out_batch is 1"),
        ({"jobs": 0}, "jobs is 0"),
        ({"family": " "}, "family is empty"),
        ({"sizes": ["small"]}, "unknown option 'sizes'"),
    ],
)
def test_a_grid_that_cannot_be_used(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        grid(**changes)


def test_a_file_and_what_is_given_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(OPTIONS, sort_keys=False))
    assert Grid.from_yaml(file) == grid()
    assert Grid.from_yaml(file, budgets=["1e9"]).budget_flops == (1e9,)
    assert grid().budget_flops == (1e9, 1e10)
    assert grid(seeds=[3, 1]).seed_numbers == (3, 1)
