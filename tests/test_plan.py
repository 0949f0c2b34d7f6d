"""From a budget to a run: hand arithmetic, Algorithm 1 on both sides of its threshold, limits, messages, files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sweeps
from hypothesis import given, settings
from hypothesis import strategies as st

from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.recipe import budget as budgets
from lacos_st.recipe import paper
from lacos_st.recipe.budget import MEASURED, budget_of, gpu_rate
from lacos_st.recipe.choice import chosen_setting
from lacos_st.recipe.family import Member, family_of
from lacos_st.recipe.gpus import GPUS, gpu
from lacos_st.recipe.law import Fitted, Law
from lacos_st.recipe.law_file import Laws, Provenance
from lacos_st.recipe.plan import Plan, plan_by_law, plan_by_paper
from lacos_st.recipe.plan_text import as_json, as_yaml, config_of, lines
from lacos_st.recipe.proposal import LeftOut, Proposal, Request, Setting, propose
from lacos_st.recipe.published import published_shape
from lacos_st.settings import TrainConfig

PYTHIA_70M = 18_915_328  # papers.md: without the token embedding
GIB = 2**30


def member(size: str) -> Member:
    return Member(f"EleutherAI/{size}", published_shape(size))


def refused(base: str) -> Any:
    raise AssertionError(f"{base} is published: its configuration is not to be read")


@pytest.fixture(scope="module")
def pythia() -> list[Member]:
    return family_of("pythia", refused)


def request_of(flops: str, **changes: Any) -> Request:
    return Request(budget_of(flops=flops), **{"length": 75.0, **changes})


def law(method: str = "full", **changes: Any) -> Law:
    fitted = Fitted((1e6, 2e9), (1e6, 1e13), (1e14, 1e20), (1e-4, 1.0), 7, 5, 35, 70, (math.log(0.1), 0.0))
    constants = {"C": 0.4, "A": 60.0, "B": 400.0, "a": 0.35, "b": 0.4}
    if method == "full":
        fitted = replace(fitted, share=(0.0, 0.0))
    samples = tuple({**constants, "C": constants["C"] + shift} for shift in (-0.01, 0.0, 0.01))
    made = Law("pythia", method, "ND", constants, samples, fitted, 0.01, 0.01, 1.0)
    return replace(made, **changes)


def laws_of(*found: Law) -> Laws:
    source = Provenance("runs.csv", 70, "0" * 64, 0, ("abc1234",), "2026-11-21T00:00:00+00:00", 3, 0, {})
    return Laws("pythia", found, {}, source)


def by_law(family: Sequence[Member], request: Request, *found: Law, **options: Any) -> Plan:
    return plan_by_law(family, request, laws_of(*(found or (law(),))), source="law.json", **options)


def test_data_of_full_fine_tuning_are_c_over_6n() -> None:
    option = propose(member("pythia-70m"), Setting("full"), request_of("1e16"))
    assert isinstance(option, Proposal)
    tokens = 1e16 / (6 * PYTHIA_70M)  # 88,112,981 tokens: 573.65 steps of 1024 pairs of 2 x 75
    assert option.steps == 573 == int(tokens / 153_600)
    assert option.tokens == 573 * 153_600 and option.pairs == 573 * 1024
    assert option.bill.flops.paper == 6 * PYTHIA_70M * option.tokens


def test_lora_costs_what_the_paper_says() -> None:
    option = propose(member("pythia-70m"), Setting("lora", rank=128), request_of("1e16"))
    assert isinstance(option, Proposal)
    # by hand: in + out of query_key_value, dense, h_to_4h and 4h_to_h in 6 layers, and the embedding's width
    adapters = 128 * (6 * ((512 + 1536) + (512 + 512) + (512 + 2048) + (2048 + 512)) + 512)
    per_token = 4 * (PYTHIA_70M + adapters) + 2 * adapters
    assert option.steps == int(1e16 / per_token / 153_600) == 572
    assert option.bill.flops.paper == pytest.approx(per_token * option.tokens, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(13, 20), batch=st.integers(2, 2000), served=st.floats(0, 1e8))
def test_no_step_more_and_none_less_than_the_budget_pays(exponent: float, batch: int, served: float) -> None:
    request = request_of(f"{10**exponent:.6e}", batch_size=batch, serve_tokens=served)
    option = propose(member("pythia-14m"), Setting("full"), request)
    if isinstance(option, LeftOut):
        assert option.smallest_flops is not None and option.smallest_flops > request.budget.flops
        return
    serving = 2 * option.member.parameters * served
    left = request.budget.flops - serving - option.bill.flops.paper
    step = 6 * option.member.parameters * request.step_tokens
    assert -1e-6 * request.budget.flops <= left <= step * (1 + 1e-6)


def test_hours_pay_for_every_term() -> None:
    rate = gpu_rate("h100", utilization=0.4)
    assert rate.flops_per_second == pytest.approx(0.4 * 989.5e12)
    budget = budget_of(hours="6", rate=rate)
    assert budget.flops == pytest.approx(6 * 3600 * 0.4 * 989.5e12)
    option = propose(member("pythia-410m"), Setting("full"), Request(budget, memory_bytes=20 * GIB))
    assert isinstance(option, Proposal) and option.job.checkpointing
    assert option.bill.flops.recomputation > 0 and option.bill.flops.attention > 0
    seconds = budget.seconds(option.training_flops)
    assert seconds is not None and 0.999 * 6 * 3600 < seconds <= 6 * 3600


def test_the_measured_utilization_is_that_of_its_row() -> None:
    path = Path(__file__).parents[1] / "benchmarks" / "results" / "training.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (row,) = [row for row in rows if row["date"][:19] in MEASURED.source]
    assert row["commit"] in MEASURED.source
    assert row["random_order"]["ours-8bit"]["share_of_ceiling"]["median"] == MEASURED.share


def test_gpus_are_named_however_they_are_written() -> None:
    assert gpu("NVIDIA H100 PCIe") == ("h100-pcie", GPUS["h100-pcie"])
    assert gpu("RTX 4090")[0] == "rtx4090"
    assert all(found.source and 1e13 < found.peak < 1e16 for found in GPUS.values())


@pytest.mark.parametrize(("flops", "first"), [(9.06e16, "full"), (math.nextafter(9.06e16, 1e18), "lora")])
def test_the_threshold_is_the_stated_one(pythia: list[Member], flops: float, first: str) -> None:
    assert paper.methods(flops)[0] == first
    plan = plan_by_paper(pythia, request_of(repr(flops)))
    second = {"full": "lora", "lora": "full"}[first]
    assert plan.best.setting.method == first
    assert plan.runner_up is not None and plan.runner_up.setting.method == second
    assert plan.best.loss is None and "not published" in " ".join(plan.why)
    assert all(option.setting.method != "bias" for option in plan.considered)


@pytest.mark.parametrize("flops", ["1.5e15", "6e15", "2.4e16", "9.6e16", "3.8e17", "1.5e18"])
def test_our_rule_stays_inside_the_papers_grid(pythia: list[Member], flops: str) -> None:
    plan = plan_by_paper(pythia, request_of(flops))
    names = [each.name.partition("pythia-")[2] for each in pythia]
    assert 0 < names.index(plan.best.member.name.partition("pythia-")[2]) < names.index("2.8b")
    assert "a rule of ours" in " ".join(plan.why)


def test_rank_and_blocks_are_the_papers() -> None:
    ranks = {size: paper.rank(published_shape(f"pythia-{size}")) for size in ("14m", "31m", "160m", "2.8b")}
    assert ranks == {"14m": 32, "31m": 128, "160m": 128, "2.8b": 128}
    blocks = {size: paper.frozen_blocks(published_shape(f"pythia-{size}")) for size in ("14m", "160m", "1b", "12b")}
    assert blocks == {"14m": 0, "160m": 0, "1b": 10, "12b": 22}  # of 6, 12, 16 and 36


def test_memory_removes_sizes_and_switches_on_what_fits(pythia: list[Member]) -> None:
    free, tight = (plan_by_paper(pythia, request_of("1e19", memory_bytes=m)) for m in (None, GIB * 3 // 2))
    assert free.best.fits is None and free.best.job.mini_batch is None
    assert tight.best.member.parameters < free.best.member.parameters
    assert tight.best.peak_bytes <= GIB * 3 // 2 < free.best.peak_bytes
    assert tight.best.fits and (tight.best.job.checkpointing or tight.best.job.mini_batch)
    assert all(option.peak_bytes <= GIB * 3 // 2 for option in tight.considered)
    assert any("are there" in each.reason for each in tight.left_out)


def test_where_full_does_not_fit_blocks_are_frozen() -> None:
    family = [member("pythia-1b"), member("pythia-1.4b")]
    memory = 14 * GIB  # full takes 16 bytes a parameter, freezing six tenths less
    plan = plan_by_paper(family, request_of("9e16", memory_bytes=memory, batch_size=64))
    assert plan.best.setting.method == "freeze" and plan.best.job.frozen_blocks in (10, 14)
    assert "does not fit" in " ".join(plan.why)


def test_too_few_pairs_ask_for_the_largest_model(pythia: list[Member]) -> None:
    free, short = (plan_by_paper(pythia, request_of("3e17", pairs=pairs)) for pairs in (None, 20_000.0))
    assert short.best.member.parameters > free.best.member.parameters
    assert short.best.all_data and short.best.pairs == 19 * 1024
    assert short.best.tokens == 19 * 1024 * 150
    assert short.best.bill.flops.paper < 3e17
    larger = [option for option in short.considered if option.member.parameters > short.best.member.parameters]
    assert not any(option.all_data for option in larger if option.setting.method == "lora")


def expected(option: Proposal) -> float:
    return 0.4 + 60 / option.member.parameters**0.35 + 400 / option.tokens**0.4


def test_the_lowest_loss_is_planned(pythia: list[Member]) -> None:
    plan = by_law(pythia, request_of("1e17"))
    losses = [expected(option) for option in plan.considered]
    assert expected(plan.best) == min(losses) and losses == sorted(losses)
    assert plan.runner_up is plan.considered[1]
    assert plan.best.loss is not None
    assert plan.best.loss.loss == pytest.approx(min(losses))
    assert plan.best.loss.low < plan.best.loss.loss < plan.best.loss.high
    text = " ".join(plan.why)
    assert plan.best.member.name in text and "runner-up" in text and "overlap" in text


def test_serving_moves_the_optimum_to_smaller_models(pythia: list[Member]) -> None:
    free, serving = (by_law(pythia, request_of("1e17", serve_tokens=served)) for served in (0.0, 2e9))
    assert serving.best.member.parameters < free.best.member.parameters
    assert serving.best.bill.flops.serving >= 2 * serving.best.member.parameters * 2e9


def test_a_law_is_not_asked_far_away(pythia: list[Member]) -> None:
    narrow = law(fitted=replace(law().fitted, budget_flops=(1e12, 1e13)))
    with pytest.raises(UserError, match="extrapolate"):
        by_law(pythia, request_of("1e17"), narrow)
    plan = by_law(pythia, request_of("1e17"), narrow, extrapolate=True)
    assert any("extrapolated" in note for note in plan.notes)


def test_every_method_of_the_law_is_considered(pythia: list[Member]) -> None:
    better = law("lora", constants={**law().constants, "C": 0.3})
    plan = by_law(pythia, request_of("1e17"), law(), better, law("freeze"), law("bias"))
    assert plan.best.setting.method == "lora"
    assert {option.setting.method for option in plan.considered} == {"full", "lora", "freeze", "bias"}
    share = plan.best.trainable
    assert 0.1 / 1.5 < share < 0.1 * 1.5  # a rank is a power of two


def test_settings_are_those_that_won_nearest() -> None:
    runs = sweeps.sweep(method="lora", shares=(0.1,), seeds=1)
    shape = published_shape("pythia-14m")  # N = 1,189,888
    near = min(runs, key=lambda run: abs(math.log(run.parameters / 1_189_888)) + abs(math.log(run.budget_flops / 1e13)))
    better = replace(near, setting="alpha=32 lr=0.003 rank=16 scale=30", loss=0.5 * (near.loss or 0.0))
    setting = chosen_setting(shape, "lora", law("lora"), [*runs, better], request_of(repr(near.budget_flops)))
    assert setting is not None
    assert (setting.rank, setting.lr, setting.others) == (16, 0.003, {"lora_alpha": 32.0, "scale": 30.0})
    assert "won" in setting.source
    without = chosen_setting(shape, "lora", law("lora"), [], request_of("1e13"))
    assert without is not None and without.lr == 1e-3  # the recipe paper's for adapters


def keys(value: Any, name: str = "") -> set[str]:
    if isinstance(value, dict):
        return {key for part, inner in value.items() for key in keys(inner, f"{name}.{part}")}
    return {key for inner in value[:1] for key in keys(inner, f"{name}[]")} if isinstance(value, list) else {name}


OPTION = (
    "autocast base batch_size counts.backward counts.forward counts.updated dtype fits flops.attention flops.backward "
    "flops.dequantization flops.forward flops.recomputation flops.serving flops.update frozen_blocks "
    "gradient_checkpointing learning_rate lora_rank loss.high loss.loss loss.low method mini_batch_size pairs "
    "paper_flops parameters peak_bytes steps tokens total_flops training_seconds"
)


def test_the_json_has_the_keys_of_its_version(pythia: list[Member]) -> None:
    found = json.loads(json.dumps(as_json(by_law(pythia, request_of("1e15")))))
    wanted = {".format_version", ".law", ".why[]"}
    wanted |= {f".budget.{name}" for name in ("flops", "counted", "source", "flops_per_second")}
    names = ("length", "batch_size", "device", "dtype", "memory_bytes", "pairs", "serve_tokens")
    wanted |= {f".request.{name}" for name in names}
    wanted |= {f"{part}.{name}" for part in (".plan", ".runner_up", ".considered[]") for name in OPTION.split()}
    wanted |= {f".left_out[].{name}" for name in ("base", "method", "reason")}
    assert keys(found) == wanted
    assert found["format_version"] == 1
    assert found["plan"]["flops"]["forward"] == 2 * found["plan"]["parameters"] * found["plan"]["tokens"]


def test_the_text_says_what_and_why(pythia: list[Member]) -> None:
    text = "\n".join(lines(plan_by_paper(pythia, request_of("1e17", memory_bytes=16 * GIB))))
    for said in ("lora, rank 128", "learning rate", "peak memory", "threshold of 9.06e16", "a rule of ours", "fits"):
        assert said in text


@pytest.mark.parametrize("method", ["full", "lora", "lacos", "freeze", "bias"])
def test_every_plan_is_a_run_that_train_accepts(method: Any, tmp_path: Path) -> None:
    request = request_of("1e16", memory_bytes=4 * GIB, device="cuda", dtype="bfloat16")
    option = propose(member("pythia-70m"), Setting(method, rank=8, frozen_blocks=2, lr=1e-3), request)
    assert isinstance(option, Proposal)
    values = config_of(option, data=["pairs.tsv"], output="run")
    plan = Plan(request, "a law", option, None, (option,), (), ("because\nof this",), ())
    (tmp_path / "plan.yaml").write_text(as_yaml(plan, values), encoding="utf-8")
    config = TrainConfig.from_yaml(tmp_path / "plan.yaml").resolved()
    assert (config.method, config.lr, config.max_steps, config.batch_size) == (method, 1e-3, option.steps, 1024)
    assert config.symmetric and config.scale == 40 and config.optimizer == option.job.optimizer
    assert config.lora_targets == ("recipe",) or not option.setting.adapted
    assert config.mini_batch_size == option.job.mini_batch
    # weights that are trained stay in 32 bits
    assert (config.dtype, config.autocast) == (
        ("bfloat16", None) if option.setting.adapted else ("float32", "bfloat16")
    )


def test_families_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "bases.txt").write_text("pythia-70m # the small one\n\nEleutherAI/pythia-14m\n", encoding="utf-8")
    found = family_of(str(tmp_path / "bases.txt"), refused)
    assert [each.name for each in found] == ["EleutherAI/pythia-14m", "EleutherAI/pythia-70m"]
    (tmp_path / "bases.txt").write_text("pythia-70m\nEleutherAI/pythia-70m", encoding="utf-8")
    with pytest.raises(UserError, match="holds only EleutherAI/pythia-70m"):
        family_of(str(tmp_path / "bases.txt"), refused)
    with pytest.raises(UserError, match="holds no base"):
        family_of(str(tmp_path), refused)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "neither is given"),
        ("--flops 1e17 --hours 6 --gpu h100", "both are given"),
        ("--flops 1e17furlongs", "cannot be read: expected FLOP"),
        ("--hours 6", "name the machine with --gpu"),
        ("--hours six --gpu h100", "the time 'six' cannot be read"),
        ("--hours 6 --gpu gtx42", "expected one of b200, h200, h100"),
        ("--hours 6 --gpu h100 --utilization 40", "the utilization is 40"),
        ("--flops 1e17 --utilization 0.4", "it needs --gpu"),
        ("--hours 1 --gpu h100 --device", "two machines"),
        ("--flops 1e9", "the smallest that works is 4.68e11 FLOP (468 GFLOP)"),
        ("--flops 1e17 --memory 1MiB", "nothing of this family can be trained in 1 MiB"),
        ("--flops 1e17 --memory 16", "the size '16' cannot be read"),
        ("--flops 1e17 --pairs 100", "100 pairs are fewer than one batch of 1024"),
        ("--flops 1e17 --pairs many", "--pairs is 'many'"),
        ("--flops 1e17 --batch-size 1", "expected 2 pairs or more"),
        ("--flops 1e17 --length 0", "the length is 0"),
        ("--flops 1e17 --family llama", "the family 'llama' is neither"),
        ("--flops 1e17 --family one.txt", "two sizes or more"),
        ("--flops 1e17 --law missing.json", "missing.json cannot be read"),
        ("--flops 1e17 --plots plots", "give a file of lacos-st fit"),
        ("--flops 1e17 --yaml plan.yaml", "with --data"),
        ("--flops 1e17 --yaml one.txt --data pairs.tsv", "one.txt exists"),
        ("--flops 1e17 --data pairs.tsv", "name it"),
    ],
)
def test_a_command_line_that_cannot_be_used(
    arguments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("pythia-70m\n", encoding="utf-8")
    assert main(["plan", *arguments.split()]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]


def test_the_smallest_budget_that_is_named_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--flops", "4.68e11"]) == 0
    assert "1 of 1024" in capsys.readouterr().out


def test_shipped_laws_choose_the_size_where_they_reach(pythia: list[Member]) -> None:
    shipped = [("nano", laws_of(law(), law("lora")))]
    near = plan_by_paper(pythia, request_of("1e17"), shipped=shipped)
    assert "this project's own fit 'nano'" in " ".join(near.why)
    ranked = sorted((option for option in near.considered if option.setting.method == "lora"), key=expected)
    assert near.best is ranked[0]
    narrow = law("lora", fitted=replace(law().fitted, budget_flops=(1e12, 1e13)))
    far = plan_by_paper(pythia, request_of("1e17"), shipped=[("nano", laws_of(narrow))])
    assert "a rule of ours" in " ".join(far.why)


def test_a_machine_is_measured_by_real_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from lacos_st import speed

    monkeypatch.setattr(speed, "FEWEST_STEPS", 1)
    monkeypatch.setattr(speed, "MOST_STEPS", 4)
    rate = speed.measured_rate(seconds=0.0, size=(64, 1, 4), cpu=True)
    assert 1e5 < rate.flops_per_second < 1e13 and rate.device == "cpu"
    assert budgets.budget_of(hours="1", rate=rate).flops == 3600 * rate.flops_per_second


@pytest.mark.slow
def test_train_runs_the_yaml_as_it_is(tiny_bloom_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        f"a {colour} dog {verb}\tthe {colour} dog is {verb}" for colour in ("red", "old", "big") for verb in "abcdefgh"
    ]
    Path("pairs.tsv").write_text("\n".join(["sentence1\tsentence2", *rows]) + "\n", encoding="utf-8")
    Path("bases.txt").write_text(f"bloom-nano\n{tiny_bloom_dir}\n", encoding="utf-8")
    command = "plan --flops 1e12 --batch-size 8 --length 8 --pairs 16 --family bases.txt --memory 4GiB"
    assert main([*command.split(), "--yaml", "plan.yaml", "--data", "pairs.tsv", "--output", "run"]) == 0
    config = TrainConfig.from_yaml("plan.yaml")
    assert (config.base, config.max_steps) == ("bloom-nano", 2)
    assert main(["train", "--config", "plan.yaml"]) == 0
    steps = [json.loads(line).get("step") for line in Path("run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(step for step in steps if step is not None) == 2
    assert Path("run/model/modules.json").is_file()
