"""Laws from runs of a known law: constants within their intervals, optima within a tenth, warnings in their place."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
from scipy.optimize import approx_fprime

from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.recipe.cost import flops_per_token, parameters
from lacos_st.recipe.estimate import fit_law, observe
from lacos_st.recipe.forms import Form, FormName, law_loss
from lacos_st.recipe.held_out import held_out, seed_noise
from lacos_st.recipe.law import Law
from lacos_st.recipe.law_file import Laws, fit_laws, load_laws
from lacos_st.recipe.law_plots import plot_frontier
from lacos_st.recipe.law_report import report
from lacos_st.recipe.optimum import Candidate, choose, crossings, optimum, tokens_at
from lacos_st.recipe.published import published_shape
from lacos_st.recipe.regression import GRID, Regression, resampled_weights
from lacos_st.recipe.runs_table import Run, append_run

SHARES = (0.2, 0.6, 1.0)
QUICK: dict[str, Any] = {"bootstrap": 0, "starts": 2, "hold_out": False}
SMALL: dict[str, Any] = {"sizes": sweeps.SIZES[::2], "budgets": sweeps.BUDGETS[::2], "seeds": 1}


def chinchilla_optimum(budget: float, constants: dict[str, float] = sweeps.CHINCHILLA) -> float:
    """Closed form for full fine-tuning (C = 6·N·D): Hoffmann et al. 2022, equation 4."""
    a, b = constants["a"], constants["b"]
    ratio = a * constants["A"] / (b * constants["B"])
    return float(ratio ** (1 / (a + b)) * (budget / 6) ** (b / (a + b)))


def shared_optimum(budget: float, share: float) -> float:
    """By trying a hundred thousand sizes on the true law."""
    sizes = np.geomspace(1e3, 1e9, 100_000)
    tokens = budget / (sizes * (2 + 4 * share))
    losses = law_loss("SND", sweeps.SHARED, parameters=sizes, tokens=tokens, trainable=np.full_like(sizes, share))
    return float(sizes[losses.argmin()])


@pytest.fixture(scope="module")
def full() -> Law:
    return fit_law(sweeps.sweep(), bootstrap=40, starts=8)


@pytest.fixture(scope="module")
def freeze() -> Law:
    runs = sweeps.sweep(constants=sweeps.SHARED, form="SND", method="freeze", shares=SHARES)
    return fit_law(runs, "SND", bootstrap=40, starts=4, hold_out=False)


def misses(law: Law, constants: dict[str, float]) -> list[str]:
    """Constants outside their intervals; none may be outside one twice as wide."""
    found = []
    for name, true in constants.items():
        low, high = law.intervals[name]
        assert low - (high - low) / 2 <= true <= high + (high - low) / 2, name
        if not low <= true <= high:
            found.append(name)
    return found


def test_chinchilla_is_recovered(full: Law) -> None:
    assert misses(full, sweeps.CHINCHILLA) == []
    for name, true in sweeps.CHINCHILLA.items():
        assert full.constants[name] == pytest.approx(true, rel=0.3)
    assert full.agreeing == 1.0
    assert full.residual == pytest.approx(0.005, rel=0.3)
    assert full.warnings == ()


def test_the_form_of_the_paper_is_recovered(freeze: Law) -> None:
    assert len(misses(freeze, sweeps.SHARED)) <= 1  # of eight intervals at 95 %
    assert freeze.warnings == ()


@pytest.mark.parametrize("budget", [1e12, 3e13, 3e15])  # the last is ten times beyond
def test_the_optimum_is_that_of_the_true_law(full: Law, freeze: Law, budget: float) -> None:
    found = optimum(full, budget)
    assert found.parameters == pytest.approx(chinchilla_optimum(budget), rel=0.1)
    reach = (found.parameters_high - found.parameters_low) / 2
    assert found.parameters_low - reach <= chinchilla_optimum(budget) <= found.parameters_high + reach
    assert 0 < reach < 0.1 * found.parameters
    assert found.tokens == pytest.approx(budget / 6 / found.parameters)
    for share in SHARES:
        best = optimum(freeze, budget, trainable=share)
        assert best.parameters == pytest.approx(shared_optimum(budget, share), rel=0.1)
        assert best.tokens * best.parameters * (2 + 4 * share) == pytest.approx(budget)


@pytest.fixture(scope="module")
def true_law() -> Law:
    """The true law itself, with what a sweep would say it was fitted on."""
    law = fit_law(sweeps.sweep(noise=0.0, seeds=1), **QUICK)
    return replace(law, constants=dict(sweeps.CHINCHILLA))


def test_the_numeric_optimum_is_the_closed_form(true_law: Law) -> None:
    law = true_law
    for budget in (1e12, 7e13, 2e15):
        found = optimum(law, budget)
        assert found.parameters == pytest.approx(chinchilla_optimum(budget), rel=1e-4)
        expected = law.predict(found.parameters, found.tokens).loss
        assert found.loss == pytest.approx(expected, rel=1e-9)
        assert math.isnan(found.loss_low)  # no samples, no interval


def test_a_fit_to_exact_losses_is_exact() -> None:
    law = fit_law(sweeps.sweep(noise=0.0, **SMALL), bootstrap=0, starts=2)
    assert law.constants == pytest.approx(sweeps.CHINCHILLA, rel=1e-2)
    assert law.residual < 1e-5
    assert all(part.max_error < 1e-3 for part in law.held_out)


@pytest.mark.parametrize(("form", "shares"), [("ND", (1.0,)), ("SND", SHARES), ("SND", (1.0,))])
def test_the_gradient_is_that_of_differences(form: FormName, shares: tuple[float, ...]) -> None:
    points = observe(sweeps.sweep(shares=shares, method="freeze", sizes=sweeps.SIZES[:3], noise=0.2), form)
    regression = Regression(Form(form, sharing=len(shares) > 1), points, delta=0.05)  # both sides of the kink
    weights = np.random.default_rng(0).integers(0, 3, len(points)).astype(float)
    for start in regression.starts()[[0, 100, -1]]:
        start = start + 0.1  # off the solution
        expected = approx_fprime(start, lambda x: regression.objective(x, weights)[0], 1e-7)
        found = regression.objective(start, weights)[1]
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3 * np.abs(expected).max())


def test_all_starts_at_once_are_each_start_by_itself() -> None:
    points = observe(sweeps.sweep(), "ND")
    regression = Regression(Form("ND"), points)
    starts = regression.starts()
    assert len(starts) == math.prod(GRID[2])
    values = [regression.objective(start, np.ones(len(points)))[0] for start in starts]
    assert values == sorted(values)
    for start in starts[::60]:
        size, data = (x / np.exp(np.log(x).mean()) for x in (points.parameters, points.tokens))
        terms = np.stack([np.ones_like(size), size ** -start[0], data ** -start[1]], axis=1)
        loss = points.loss / np.exp(np.log(points.loss).mean())
        expected = np.linalg.lstsq(terms / loss[:, None], np.ones_like(loss), rcond=None)[0]
        assert start[2:] == pytest.approx(np.maximum(expected, 0), rel=1e-3, abs=1e-4)


def test_named_constants_are_those_of_the_printed_formula(freeze: Law) -> None:
    points = observe(sweeps.sweep(constants=sweeps.SHARED, form="SND", method="freeze", shares=SHARES), "SND")
    regression = Regression(Form("SND"), points)
    solution = regression.descend(regression.starts()[0])
    c = regression.form.named(solution.values, regression.units)
    n, d, s = points.parameters, points.tokens, points.trainable
    printed = c["C"] + (c["a_d"] * np.log(d) + c["b_d"]) / n ** c["a"]
    printed += (c["a_s"] * (1 - s) ** c["b_s"] + c["c_s"]) / d ** c["b"]
    assert regression.predict(solution, points) == pytest.approx(printed, rel=1e-9)


def test_seeds_are_drawn_with_their_configuration() -> None:
    configuration = np.array([0, 0, 3, 3, 3, 9])
    weights = resampled_weights(configuration, samples=50, seed=1)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2:5] == weights[:, 2:3]).all()
    assert (weights[:, [0, 2, 5]].sum(axis=1) == 3).all()
    assert (weights == resampled_weights(configuration, samples=50, seed=1)).all()
    assert (weights != resampled_weights(configuration, samples=50, seed=2)).any()


def test_the_best_setting_of_each_size_and_budget_is_fitted() -> None:
    good = sweeps.sweep(sizes=(1000, 2000), budgets=(1e9, 2e9), noise=0.01)
    bad = [replace(run, setting="lr=1", loss=(run.loss or 0) * 1.2) for run in good]
    lucky = replace(bad[0], loss=(good[0].loss or 0) * 0.99)  # one seed of two
    points = observe([lucky, *bad[1:], *good], "ND")
    assert sorted(points.loss) == sorted(run.loss or 0 for run in good)
    assert len(set(points.configuration.tolist())) == 4
    frozen = [replace(run, updated=run.parameters // 2, method="full") for run in bad]
    assert len(observe([*good, *frozen], "SND")) == 16  # another S is another point
    with pytest.raises(ValueError, match="one family and method"):
        observe([*good, replace(good[0], method="lora")], "ND")
    with pytest.raises(ValueError, match="reached their budget"):
        observe([replace(good[0], reached=False)], "ND")


def test_held_out_runs_are_not_seen() -> None:
    points = observe(sweeps.sweep(), "ND")
    budgets, sizes = held_out(points, "ND")
    assert (budgets.rows, sizes.rows) == (len(sweeps.SIZES) * 2, len(points))
    assert budgets.mean_error < 0.02 and sizes.mean_error < 0.02
    largest = points.budget_flops == points.budget_flops.max()
    spoilt = replace(points, loss=np.where(largest, 2 * points.loss, points.loss))
    assert held_out(spoilt, "ND")[0].bias == pytest.approx((1 + budgets.bias) / 2 - 1, rel=1e-6)
    assert held_out(observe(sweeps.sweep(sizes=(1000, 2000), budgets=(1e9, 2e9)), "ND"), "ND") == ()


def test_noise_between_seeds() -> None:
    assert seed_noise(observe(sweeps.sweep(noise=0.02, seeds=6), "ND")) == pytest.approx(0.02, rel=0.1)
    assert seed_noise(observe(sweeps.sweep(seeds=1), "ND")) is None


@pytest.mark.parametrize(
    ("changes", "form", "said"),
    [
        ({"sizes": sweeps.SIZES[2:5]}, "ND", "3 sizes: an exponent of N needs 4"),
        ({"budgets": sweeps.BUDGETS[:2]}, "ND", "2 budgets: an exponent of D needs 3"),
        ({"sizes": sweeps.SIZES[:2], "budgets": sweeps.BUDGETS[:2]}, "ND", "4 configurations for 5 constants"),
        ({"constants": sweeps.CHINCHILLA | {"C": -0.2}}, "ND", "C is at the bound"),
        ({"constants": sweeps.CHINCHILLA | {"A": 0.0}, "noise": 0.02}, "ND", "a lies between|the term of N|a is at"),
        (
            {"constants": sweeps.CHINCHILLA | {"B": 0.0}, "noise": 0.02},
            "ND",
            "b lies between|the term of D|b is at|B is at",
        ),
        ({"noise": 0.2}, "ND", "C lies between|a lies between"),
        ({"method": "freeze"}, "SND", "S does not vary"),
    ],
)
def test_warnings_where_they_belong(changes: dict[str, Any], form: FormName, said: str) -> None:
    law = fit_law(sweeps.sweep(**changes), form, bootstrap=8, starts=2, hold_out=False)
    assert any(part in warning for warning in law.warnings for part in said.split("|")), law.warnings


def test_a_form_that_does_not_describe_the_runs() -> None:
    runs = [
        replace(run, loss=(run.loss or 0) * (1.3 if run.parameters == sweeps.SIZES[3] else 1)) for run in sweeps.sweep()
    ]
    assert any("does not describe" in warning for warning in fit_law(runs, **QUICK).warnings)


def test_seeds_that_agree_exactly_are_no_fault_of_the_form() -> None:
    law = fit_law(sweeps.sweep(noise=0.0), **QUICK)
    assert law.seed_noise == 0.0 and 0.0 < law.residual < 1e-3
    assert not any("does not describe" in warning for warning in law.warnings)


def test_sizes_that_grow_with_the_data() -> None:
    ladder = dict(zip(sweeps.SIZES, sweeps.BUDGETS, strict=False))
    runs = [run for run in sweeps.sweep() if ladder.get(run.parameters) == run.budget_flops]
    assert any("cannot be told apart" in warning for warning in fit_law(runs, **QUICK).warnings)


def test_a_law_is_not_asked_far_away(full: Law) -> None:
    smallest, largest = full.fitted.parameters
    inside = full.predict(largest * 9.9, full.fitted.tokens[1])
    assert inside.low < inside.loss < inside.high
    for size in (largest * 10.1, smallest / 10.1):
        with pytest.raises(UserError, match="the law of full was fitted on N from .* more than 10 times beyond"):
            full.predict(size, 1e7)
        assert full.predict(size, 1e7, extrapolate=True).loss > 0
    with pytest.raises(UserError, match="fitted on D"):
        full.predict(1e6, full.fitted.tokens[1] * 11)
    with pytest.raises(UserError, match="fitted on budget_flops from 1e\\+12 to 3e\\+14, and 3.1e\\+15"):
        optimum(full, 3.1e15)
    assert optimum(full, 3.1e16, extrapolate=True).parameters == pytest.approx(chinchilla_optimum(3.1e16), rel=0.2)
    with pytest.raises(UserError, match="trainable is 1.5"):
        optimum(full, 1e14, trainable=1.5)


def test_a_law_without_a_minimum_says_so(true_law: Law) -> None:
    rising = replace(true_law, constants=sweeps.CHINCHILLA | {"A": 0.0})
    assert optimum(rising, 1e14).edge
    assert not optimum(true_law, 1e14).edge


def test_with_too_little_data_the_model_grows(full: Law) -> None:
    free = optimum(full, 1e14)
    held = optimum(full, 1e14, max_tokens=free.tokens / 3)
    assert held.parameters == pytest.approx(free.parameters * 3, rel=0.01)
    assert held.tokens == pytest.approx(free.tokens / 3, rel=0.01)
    assert held.loss > free.loss


def test_models_that_exist(full: Law) -> None:
    sizes = [Candidate(f"{size}", size, 6.0 * size, 1.0) for size in (10**5, 10**6, 10**7, 10**12)]
    found = choose(full, 1e14, sizes)
    assert [choice.candidate.name for choice in found] == ["1000000", "100000", "10000000"]  # the last is out of range
    assert found[0].tokens == pytest.approx(1e14 / 6e6)
    assert found[0].loss == full.predict(1e6, 1e14 / 6e6).loss
    with pytest.raises(UserError, match="none of the 1 models"):
        choose(full, 1e14, sizes[3:])
    with pytest.raises(UserError, match="no model to choose from"):
        choose(full, 1e14, [])


def test_where_two_laws_cross(true_law: Law) -> None:
    other = replace(true_law, method="freeze", constants=sweeps.CHINCHILLA | {"C": 0.65, "A": 40.0})
    (budget,) = crossings(true_law, other)  # better while N is small
    assert optimum(true_law, budget).loss == pytest.approx(optimum(other, budget).loss, rel=1e-3)
    assert crossings(true_law, replace(other, constants=sweeps.CHINCHILLA | {"C": 0.6})) == []


@pytest.mark.parametrize("method", ["full", "freeze", "bias", "lora"])
def test_the_cost_of_a_size_is_that_of_its_model(method: Any) -> None:
    shape = published_shape("pythia-160m")
    count = parameters(shape, method, rank=32, targets="all-linear", frozen_blocks=6)
    share = count.updated / count.forward
    expected = 2 * (count.forward + count.backward + count.updated)
    assert flops_per_token(method, shape.without_embedding, share) == pytest.approx(expected)


def test_the_share_of_adapters_falls_with_the_size() -> None:
    runs = []
    for run in sweeps.sweep(method="lora", seeds=1):
        adapters = int(300 * run.parameters**0.5)
        total = run.parameters + adapters
        tokens = run.budget_flops / 2 / (2 * total + adapters)
        runs.append(replace(run, forward=total, backward=total, updated=adapters, tokens=tokens))
    law = fit_law(runs, **QUICK)
    for run in runs[::5]:
        assert float(law.share(np.array(float(run.parameters)))) == pytest.approx(run.trainable, rel=0.25)
        assert tokens_at(law, run.budget_flops, run.parameters) == pytest.approx(run.tokens, rel=0.25)


@pytest.fixture(scope="module")
def laws() -> tuple[Laws, dict[str, list[Run]]]:
    runs = {"full": sweeps.sweep(**SMALL), "lora": sweeps.sweep(method="lora", shares=(0.05, 0.1), **SMALL)}
    return fit_laws(runs, source="runs.csv", date="2026-11-21", bootstrap=4, forms=("ND",), unreached=3), runs


def test_round_trip(laws: tuple[Laws, dict[str, list[Run]]], tmp_path: Path) -> None:
    laws[0].save(tmp_path / "law.json")
    assert [path.name for path in tmp_path.iterdir()] == ["law.json"]
    again = load_laws(tmp_path / "law.json")
    assert again.laws == laws[0].laws and again.provenance == laws[0].provenance
    assert again.to_dict() == laws[0].to_dict()
    assert repr(again.isoflops) == repr(laws[0].isoflops)  # NaN is no equal of itself
    source = again.provenance
    assert (source.rows, source.unreached, source.commits, source.date) == (36, 3, ("abc1234",), "2026-11-21")
    assert again.law("lora").predict(1e6, 1e7) == laws[0].law("lora").predict(1e6, 1e7)
    with pytest.raises(UserError, match=r"no law of form SND for full: the file has full \(ND\), lora \(ND\)"):
        again.law("full", "SND")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("[]", "format_version None: expected 1"),
        ('{"format_version": 2}', "format_version 2: expected 1"),
        ('{"format_version": 1}', "no file of laws .*KeyError: 'family'"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "law.json").write_text(content)
    with pytest.raises(UserError, match=said):
        load_laws(tmp_path / "law.json")


def test_the_same_seed_gives_the_same_law() -> None:
    one, same, other = (fit_law(sweeps.sweep(**SMALL), **QUICK | {"bootstrap": 3}, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.constants == other.constants and one.samples != other.samples


def test_plots(laws: tuple[Laws, dict[str, list[Run]]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra lacos_st[plot] is not installed")
    points = {method: observe(runs, "ND") for method, runs in laws[1].items()}
    plot_frontier(laws[0], points, tmp_path / "c.png", budget_flops=1e15)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="fitted on budget_flops"):
        plot_frontier(laws[0], points, tmp_path / "d.png", budget_flops=1e17)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_report(laws: tuple[Laws, dict[str, list[Run]]]) -> None:
    text = "\n".join(report(laws[0]))
    for part in (
        "3 did not reach their budget",
        "L(N, D) = C + A/N^a + B/D^b",
        "held out, largest budget",
        "IsoFLOP: N_opt",
    ):
        assert part in text
    assert "better than" in text.splitlines()[-1]
    beyond = "\n".join(report(laws[0], [2e15]))
    assert "2e+15 FLOP" in beyond and "~" in beyond
    with pytest.raises(UserError, match="--extrapolate"):
        list(report(laws[0], [1e17]))


def test_a_loss_below_zero_is_not_reported(
    laws: tuple[Laws, dict[str, list[Run]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(law: Law, budget_flops: float, **options: Any) -> Any:
        return replace(optimum(law, budget_flops, **options), loss=-3.25, loss_low=-4.5, loss_high=1.0)

    monkeypatch.setattr("lacos_st.recipe.law_report.optimum", wrong)
    text = "\n".join(report(laws[0]))
    assert "-3.25" not in text
    assert "-4.5" not in text
    assert "below 0: no loss is" in text
    monkeypatch.undo()
    assert "below 0" not in "\n".join(report(laws[0]))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for run in [*sweeps.sweep(**SMALL), replace(sweeps.sweep()[0], seed=7, reached=False)]:
        append_run(tmp_path / "runs.csv", run)
    return tmp_path / "runs.csv"


def test_the_command(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the extra lacos_st[plot] is not installed")
    output, plots = table.parent / "law.json", table.parent / "plots"
    line = ["fit", str(table), "--forms", "ND", "--bootstrap", "4", "--output", str(output), "--plots", str(plots)]
    assert main(line) == 0
    assert "1 did not reach their budget" in capsys.readouterr().out
    assert {path.name for path in plots.iterdir()} == {"isoflops.png", "sizes.png", "frontier.png"}
    assert load_laws(output).provenance.source == "runs.csv"
    assert main(line) == 2
    assert "isoflops.png exists" in capsys.readouterr().err
    assert main(["fit", str(table), "--forms", "ND", "--bootstrap", "0", "--json", "--budgets", "2e15"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["optima"]["full"]["ND"][0]["parameters"] == pytest.approx(chinchilla_optimum(2e15), rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budgets", "1e18"], "--extrapolate"),
        (["--budgets", "much"], "the budget 'much' cannot be read"),
        (["--methods", "lora"], "no runs of method 'lora'"),
        (["--family", "bloom"], "no family 'bloom'"),
        (["--bootstrap", "-1"], "--bootstrap is -1"),
        (["--plots", "runs.csv"], "runs.csv is a file"),
        (["--forms", "XYZ"], "invalid choice"),
    ],
)
def test_a_command_line_that_cannot_be_used(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(table.parent)
    assert main(["fit", "runs.csv", "--bootstrap", "0", "--output", "law.json", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in table.parent.iterdir()] == ["runs.csv"]


@pytest.mark.thorough
@pytest.mark.slow
def test_intervals_cover_what_they_say() -> None:
    """Percentile intervals of few configurations are somewhat narrow: nine in ten, not 95 in a hundred."""
    inside: list[bool] = []
    for seed in range(30):
        law = fit_law(sweeps.sweep(seed=seed), bootstrap=100, starts=2, hold_out=False)
        inside += [low <= sweeps.CHINCHILLA[name] <= high for name, (low, high) in law.intervals.items()]
    assert np.mean(inside) > 0.85
