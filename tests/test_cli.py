from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from transformers import T5Config, T5Model

import lacos_st
from lacos_st.cli import main
from lacos_st.commands import train
from lacos_st.settings import TrainConfig

PAIRS = "".join(f"a man walks {i}\ta man {i}\n" for i in range(24))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a base, pairs, and no way to the hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    tiny.save(tmp_path / "base")
    (tmp_path / "pairs.tsv").write_text(PAIRS, encoding="utf-8")
    return tmp_path


def run(*arguments: str, base: str = "base", data: str = "pairs.tsv", output: str = "out") -> int:
    line = ["train", "--base", base, "--data", data, "--output", output, "--block-size", "64", "--batch-size", "8"]
    return main([*line, "--cpu", "--no-progress", *arguments])


def refused(capsys: pytest.CaptureFixture[str], status: int, *parts: str) -> str:
    """One line on stderr that says what was wrong, exit status 2, no traceback."""
    error = [line for line in capsys.readouterr().err.splitlines() if "lacos-st" in line]
    assert status == 2
    assert len(error) == 1
    assert error[0].startswith("lacos-st: error: ")
    for part in parts:
        assert part in error[0]
    return error[0]


def test_training_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--lr", "1e-3", "--eval-rows", "2") == 0
    assert "24 rows" not in capsys.readouterr().out.splitlines()[-1]  # two were set aside
    written = TrainConfig.from_yaml(folder / "out" / "train.yaml")
    assert (written.lr, written.lora_rank, written.batch_size, written.data) == (1e-3, 4, 8, ("pairs.tsv",))
    assert {path.name for path in (folder / "out").iterdir()} == {
        "model",
        "checkpoints",
        "train.yaml",
        "rows.json",
        "log.jsonl",
    }
    assert main(["train", "--config", "out/train.yaml", "--output", "again", "--seed", "7"]) == 0
    assert TrainConfig.from_yaml(folder / "again" / "train.yaml").seed == 7
    assert main(["train", "--resume", "--output", "again"]) == 0


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("nobody/no-such-base", "nobody/no-such-base"),  # no network either: the hub cannot be reached
        ("./no-such-folder", "no-such-folder"),
        ("t5", "encoder-decoder"),
        ("odd", "block"),
        ("truncated", "truncated"),
    ],
)
def test_a_base_that_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str], base: str, said: str) -> None:
    if base == "t5":
        config = T5Config(vocab_size=tiny.VOCABULARY, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4)
        T5Model(config).save_pretrained("t5")
        tiny.tokenizer().save_pretrained("t5")
    elif base == "odd":
        tiny.model(hidden=76).save_pretrained("odd")
        tiny.tokenizer().save_pretrained("odd")
    elif base == "truncated":
        shutil.copytree("base", "truncated")
        weights = Path("truncated/model.safetensors")
        weights.write_bytes(weights.read_bytes()[:5000])
    refused(capsys, run(base=base), said)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.tsv", "", "empty.tsv"),
        ("one.tsv", "only one column\nhere\n", "one column"),
        ("neutral.tsv", "neutral\ta\tb\nneutral\tc\td\n", "entailment"),
        ("missing.tsv", None, "missing.tsv"),
        ("nobody/no-such-data", None, "no-such-data"),
    ],
)
def test_data_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    refused(capsys, run(data=name), said)
    assert not (folder / "out").exists()


def test_an_output_folder_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    refused(capsys, run(), "out exists and is not empty", "--overwrite")
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.txt"]
    refused(capsys, run("--resume"), "no train.yaml")
    refused(capsys, run(output="pairs.tsv"), "pairs.tsv is a file")


@pytest.mark.parametrize("eval_rows", ["2", "0"])
def test_a_loss_that_is_not_finite(folder: Path, capsys: pytest.CaptureFixture[str], eval_rows: str) -> None:
    status = run("--lr", "1e30", "--warmup", "0", "--eval-rows", eval_rows)
    refused(capsys, status, "loss was", "step", "learning rate")
    assert not (folder / "out").exists()


def test_a_broken_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--eval-rows", "0") == 0
    capsys.readouterr()
    checkpoint = max((folder / "out" / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    weights = checkpoint / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(capsys, main(["train", "--resume", "--output", "out"]), checkpoint.name, "broken")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--learning-rate", "1"], "--learning-rate"),
        (["train", "--base", "base"], "missing data, output"),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "--config", "list.yaml"], "list.yaml"),
        (["train", "--config", "typo.yaml"], "did you mean 'batch_size'"),
        (["train", "--config", "type.yaml"], "expected a whole number"),
        (["train", "--config", "syntax.yaml"], "not YAML"),
        (["train", "--resume", "--output", "fresh"], "no run to resume"),
        (["translate"], "translate"),
        ([], "COMMAND"),
        (["evaluate"], "MODEL"),
        (["evaluate", "no-such-model", "--data", "sts"], "no-such-model"),
        (["evaluate", "base", "--data", "no-such-folder"], "no-such-folder"),
        (["demo", "--data", "no-such-folder"], "no-such-folder"),
        (["memory", "no-such-base"], "no-such-base"),
        (["memory", "bloom-560m", "--budget", "16"], "expected a number and a unit"),
        (["memory", "bloom-560m", "--method", "magic"], "encode, lacos, lora, full, freeze, bias, sbert"),
        (["memory", "bloom-560m", "--method", "freeze", "--frozen-blocks", "25"], "the model has 24 blocks"),
        (["cost"], "BASE"),
        (["cost", "bloom-560m"], "either --pairs"),
        (["cost", "bloom-560m", "--pairs", "9", "--tokens", "9"], "either --pairs"),
        (["cost", "bloom-560m", "--pairs", "many"], "--pairs is 'many'"),
        (["cost", "bloom-560m", "--tokens", "-1e9"], "--tokens"),
        (["cost", "bloom-560m", "--tokens", "nan"], "--tokens is 'nan'"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--length", "0"], "length is 0"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--rank", "0"], "rank is 0"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--cached", "0"], "mini_batch is 0"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--targets", "no_layer"], "no_layer"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--method", "freeze"], "--frozen-blocks"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--method", "magic"], "lacos, lora, full, freeze"),
        (["cost", "bloom-560m", "--pairs", "1e5", "--method", "encode"], "encode trains nothing"),
        (["cost", "no-such-base", "--pairs", "1e5"], "no-such-base"),
        (["memory", "bloom-560m", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_a_command_line_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "list.yaml").write_text("- a\n- b\n")
    (folder / "typo.yaml").write_text("batchsize: 8\n")
    (folder / "type.yaml").write_text("base: b\ndata: d\noutput: o\nbatch_size: 8.5\n")
    (folder / "syntax.yaml").write_text("base: [\n")
    (folder / "sts").mkdir()
    (folder / "sts" / "a.tsv").write_text("1\ta\tb\n2\tc\td\n")
    before = sorted(folder.rglob("*"))
    refused(capsys, main(arguments), said)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "full", "--lora-rank", "4"], "lora_rank"),
        (["--lora-rank", "0"], "lora_rank is 0"),
        (["--lora-targets", "no_such_layer"], "no_such_layer"),
        (["--method", "sbert"], "pairs"),
        (["--batch-size", "1"], "batch_size is 1"),
        (["--lr", "-1"], "lr is -1"),
        (["--lr", "fast"], "expected a number"),
        (["--method", "magic"], "lacos, lora, full, freeze, bias, sbert"),
        (["--method", "bias", "--lora-rank", "4"], "method bias has no adapters"),
        (["--method", "freeze"], "method freeze needs frozen_blocks"),
        (["--method", "freeze", "--frozen-blocks", "3"], "the model has 2 blocks"),
        (["--method", "freeze", "--frozen-blocks", "-1"], "frozen_blocks is -1"),
        (["--method", "freeze", "--frozen-blocks", "half"], "expected a whole number"),
        (["--frozen-blocks", "1"], "method lacos freezes no blocks"),
        (["--method", "sbert", "--symmetric"], "symmetric is for in-batch negatives"),
        (["--preset", "cookbook"], "paper, recipe, best"),
        (
            ["--preset", "best", "--method", "full"],
            "preset best says nothing of method full: choose another, or lacos, lora",
        ),
        (["--preset", "recipe", "--method", "sbert"], "preset recipe says nothing of method sbert"),
        (["--best", "sts"], "eval_sts"),
        (["--eval-sts", "none.tsv"], "none.tsv"),
        (["--overwrite", "--resume"], "exclude each other"),
        (["--code", "cubic"], "dynamic, linear"),
        (["--mini-batch-size", "0"], "mini_batch_size is 0"),
        (["--method", "sbert", "--mini-batch-size", "4"], "sbert has none"),
    ],
)
def test_options_that_cannot_be_used(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "run.yaml").write_text("{}\n")
    refused(capsys, run("--config", "run.yaml", *arguments), said)
    assert not (folder / "out").exists()


def test_a_base_without_biases(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.save(folder / "llama", "llama")
    said = "a llama has no biases to train: choose lora"
    refused(capsys, run("--method", "bias", base="llama"), said)
    assert not (folder / "out").exists()
    for command in (["memory", "llama"], ["cost", "llama", "--pairs", "1e5"]):
        refused(capsys, main([*command, "--method", "bias"]), said)
        assert main([*command, "--block-size", "64"] if command[0] == "memory" else command) == 0
        assert "bias" not in capsys.readouterr().out


def test_cost_needs_a_configuration_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "base" / "model.safetensors").unlink()
    assert main(["cost", "base", "--pairs", "1e3"]) == 0
    assert "the paper's C" in capsys.readouterr().out
    line = ["cost", "pythia-70m", "--pairs", "1024", "--length", "75", "--method", "full"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    n, tokens = 18_915_328, 153_600
    assert f"N = {n:,} parameters" in shown
    assert "the paper's C  1.74e13 FLOP (17.4 TFLOP)" in shown
    assert round(6 * n * tokens / 1e11) == 174
    assert main([*line, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["methods"]["full"]["paper_flops"] == 6 * n * tokens
    assert content["steps"] == 32
    assert main(["cost", "pythia-70m", "--tokens", "153600", "--length", "75", "--method", "full", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_the_recipe_preset_is_recorded_and_said(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("--method", "freeze", "--frozen-blocks", "1", "--preset", "recipe", "--eval-rows", "0") == 0
    said = next(record.getMessage() for record in caplog.records if "preset recipe" in record.getMessage())
    for part in (
        "arXiv 2406.04165",
        "scale 40",
        "symmetric true",
        "lr 0.0001 (that of pythia-14m, the nearest in size)",
    ):
        assert part in said.partition("; given instead: ")[0]
    assert "batch_size 8" in said.partition("; given instead: ")[2]
    assert "lora" not in said
    written = TrainConfig.from_yaml(folder / "out" / "train.yaml")
    assert (written.preset, written.lr, written.scale, written.symmetric) == ("recipe", 1e-4, 40.0, True)
    assert (written.batch_size, written.scheduler, written.weight_decay) == (8, "cosine", 0.1)
    assert main(["train", "--resume", "--output", "out", "--method", "freeze"]) == 0


@pytest.mark.parametrize("base", ["bloom-7b1", "EleutherAI/pythia-1b", "bloom-nano", "base"])
def test_memory_needs_a_configuration_only(folder: Path, capsys: pytest.CaptureFixture[str], base: str) -> None:
    (folder / "base" / "model.safetensors").unlink()
    assert main(["memory", base, "--budget", "16GiB", "--block-size", "64"]) == 0
    shown = capsys.readouterr().out
    assert "largest batch" in shown
    assert "lacos, checkpointing" in shown
    assert ("full at batch 32 needs" in shown) == (base == "bloom-7b1")
    assert main(["memory", base, "--method", "lacos", "--checkpointing", "--block-size", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:-1]] == ["lacos, checkpointing"]


def test_a_run_without_memory_for_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lacos_st.recipe.machine.available_bytes", lambda device: 500_000)
    refused(capsys, run("--eval-rows", "0"), "this run needs about", "--fit", "--force")
    assert not (folder / "out").exists()
    assert run("--eval-rows", "0", "--force") == 0
    monkeypatch.setattr("lacos_st.recipe.machine.available_bytes", lambda device: 1_000_000)
    assert run("--eval-rows", "0", "--fit", "--overwrite") == 0
    written = TrainConfig.from_yaml(folder / "out" / "train.yaml")
    assert written.gradient_checkpointing or written.mini_batch_size is not None
    assert (written.fit, written.force) == (False, False)


def test_the_cached_loss_is_the_plain_one_in_less_memory(folder: Path) -> None:
    losses = []
    for more in ([], ["--mini-batch-size", "3"]):
        assert run("--eval-rows", "0", "--overwrite", "--lr", "1e-3", *more) == 0
        rows = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
        losses.append(next(row["train_loss"] for row in rows if "train_loss" in row))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_evaluate_prints_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sts").mkdir()
    rows = ["5\ta man walks\ta man walks on", "3\ta man plays\ta guitar", "0\tthe street is long\tx"]
    (folder / "sts" / "tiny.en-en.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    line = ["evaluate", "base", "--baseline", "base", "--data", "sts", "--output", "scores"]
    assert main(line) == 0
    assert "tiny.en-en" in capsys.readouterr().out
    assert {"results.json", "results.md"} <= {path.name for path in (folder / "scores").iterdir()}
    refused(capsys, main(line), "scores")


def test_a_model_whose_base_has_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--max-steps", "1", "--eval-rows", "0") == 0
    (folder / "sts").mkdir()
    (folder / "sts" / "t.en-en.tsv").write_text("5\ta man\ta man on\n1\tx\tthe street\n", encoding="utf-8")
    tiny.save(folder / "base", seed=9)
    capsys.readouterr()
    refused(capsys, main(["evaluate", "out/model", "--data", "sts"]), "base")


def test_interruption(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lacos_st.training.save_model", interrupt)
    assert run() == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (folder / "out" / "model").exists()


def test_every_option_of_a_run_is_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for name in train.OPTIONS:
        assert f"--{name.replace('_', '-')}" in shown


def test_help_and_version_import_no_torch() -> None:
    # The package itself registers its modules when it is imported; that aside, the command line must stay light.
    code = f"""
import sys, types
package = types.ModuleType("lacos_st")
package.__path__ = [{str(Path(lacos_st.__file__).parent)!r}]
sys.modules["lacos_st"] = package
from lacos_st.cli import main
commands = ("train", "evaluate", "encode", "memory", "cost", "demo")
for line in (["--help"], ["--version"], *([command, "--help"] for command in commands)):
    try:
        main(line)
    except SystemExit as stop:
        assert stop.code == 0
assert main(["train", "--base", "x"]) == 2
heavy = {{"torch", "transformers", "sentence_transformers", "datasets", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: lacos-st" in done.stdout


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lacos_st", "--version"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("lacos-st ")
