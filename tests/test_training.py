from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer

from lacos_st.arguments import training_arguments
from lacos_st.checkpoint import base_hash
from lacos_st.errors import UserError
from lacos_st.linear import codes_hash
from lacos_st.losses import own_weights
from lacos_st.methods import build_loss, build_model, load_rows
from lacos_st.resume import check_checkpoint
from lacos_st.runs import RunFolder
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import train

WORDS = "a man plays guitar street is long and walks x the man's on in at by".split()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: tiny.save(tmp_path_factory.mktemp(name), name) for name in ("bloom", "bert")}


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Entailment is a subset of the words, contradiction other words, neutral a mixture: learnable in a few steps."""
    rng = random.Random(0)
    lines = []
    for _ in range(120):
        words = rng.sample(WORDS, 6)
        others = [word for word in WORDS if word not in words]
        for label, hypothesis in (
            ("entailment", words[:3]),
            ("neutral", words[:1] + others[:2]),
            ("contradiction", others[:3]),
        ):
            lines.append("\t".join((label, " ".join(words), " ".join(rng.sample(hypothesis, 3)))))
    file = tmp_path_factory.mktemp("data") / "nli.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def options(base: dict[str, str], nli: str, tmp_path: Path) -> dict[str, Any]:
    return {
        "base": base["bloom"],
        "data": nli,
        "output": str(tmp_path / "run"),
        "block_size": 64,
        "batch_size": 16,
        "lr": 5e-3,
        "cpu": True,
        "progress": False,
    }


def configure(options: dict[str, Any], **changes: Any) -> TrainConfig:
    return TrainConfig.from_mapping({**options, **changes})


def embeddings(folder: Path) -> torch.Tensor:
    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(tiny.SENTENCES, convert_to_tensor=True, show_progress_bar=False)


def log_of(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunFolder(Path(folder)).log.read_text().splitlines()]


@pytest.mark.parametrize("method", ["lacos", "lora", "full", "freeze", "bias", "sbert"])
def test_each_method_learns_and_saves_what_it_holds(options: dict[str, Any], base: dict[str, str], method: str) -> None:
    chosen = base["bert" if method == "sbert" else "bloom"]
    epochs = 8 if method == "sbert" else 2
    more = {"freeze": {"frozen_blocks": 1}, "bias": {"lr": 5e-2}}.get(method, {})
    result = train(configure(options, method=method, base=chosen, epochs=epochs, **more))
    losses = [row["eval_loss"] for row in log_of(options["output"]) if "eval_loss" in row]
    assert result.best_metric == min(losses[1:])
    assert result.best_metric < 0.9 * losses[0]
    in_memory = result.model.encode(tiny.SENTENCES, convert_to_tensor=True, show_progress_bar=False)
    assert torch.equal(embeddings(result.model_path), in_memory)


def test_lacos_moves_every_adapter_and_nothing_else(options: dict[str, Any]) -> None:
    config = configure(options, lora_targets="all-linear").resolved()
    torch.manual_seed(config.seed)
    before = build_model(config)
    result = train(configure(options, lora_targets="all-linear"))
    old, new = before[0].model, result.model[0].model
    assert codes_hash(old) == codes_hash(new)
    assert base_hash(old) == base_hash(new)
    old_state, trainable = old.state_dict(), {name for name, p in new.named_parameters() if p.requires_grad}
    assert trainable == {name for name in old_state if ".lora_" in name}
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old_state[name]) == (name not in trainable), name


def test_train_yaml_reproduces_the_run_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    first = train(configure(options, lora_dropout=0.1, scheduler="cosine"))
    file = RunFolder(Path(options["output"])).config
    second = train(TrainConfig.from_yaml(file, output=str(tmp_path / "again")))
    assert torch.equal(embeddings(first.model_path), embeddings(second.model_path))
    other = train(TrainConfig.from_yaml(file, output=str(tmp_path / "other"), seed=43))
    assert not torch.equal(embeddings(first.model_path), embeddings(other.model_path))


class _Stop(Exception):
    pass


def _train_until(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break off as Ctrl-C would, after the checkpoint of `step`."""
    stock = LacosTrainer._save_checkpoint

    def save_and_stop(self: LacosTrainer, *args: Any) -> None:
        stock(self, *args)
        if self.state.global_step >= step:
            self.callback_handler.on_save(self.args, self.state, self.control)
            raise _Stop

    with monkeypatch.context() as patch:
        patch.setattr(LacosTrainer, "_save_checkpoint", save_and_stop)
        with pytest.raises(_Stop):
            train(config)


@pytest.mark.parametrize("method", ["lacos", "full", "freeze", "bias", "sbert"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    options: dict[str, Any], base: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    chosen = base["bert" if method == "sbert" else "bloom"]
    options |= {"method": method, "base": chosen, "epochs": 2, "eval_steps": 4}
    options |= {"frozen_blocks": 1} if method == "freeze" else {}
    config = configure(options)
    whole = train(configure(options, output=str(tmp_path / "whole")))
    _train_until(config, 8, monkeypatch)
    assert not RunFolder(Path(options["output"])).model.exists()
    resumed = train(replace(config, resume=True))
    assert resumed.steps == whole.steps
    assert torch.equal(embeddings(whole.model_path), embeddings(resumed.model_path))


def test_resuming_with_other_options_is_refused(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _train_until(configure(options), 2, monkeypatch)
    with pytest.raises(UserError, match=r"lr 0.005 -> 0.001"):
        train(configure(options, lr=1e-3, resume=True))


def test_resuming_on_other_rows_is_refused(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.tsv"
    data.write_text("".join(f"a man {i}\ta street {i}\n" for i in range(60)), encoding="utf-8")
    config = configure(options, data=str(data), max_steps=3, eval_steps=1, batch_size=4)
    _train_until(config, 1, monkeypatch)
    text = data.read_text(encoding="utf-8")
    data.write_text(text.replace("street 7\n", "street 77\n"), encoding="utf-8")
    with pytest.raises(UserError, match=r"other rows \(54 to train on and 6 for validation, now 54 and 6\)"):
        train(replace(config, resume=True))
    folder = RunFolder(Path(options["output"]))
    whole = folder.rows.read_text(encoding="utf-8")
    folder.rows.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.json is broken"):
        train(replace(config, resume=True))
    data.write_text(text, encoding="utf-8")
    folder.rows.unlink()  # as a run of before has it
    train(replace(config, resume=True))
    assert folder.rows.read_text(encoding="utf-8") == whole


def test_a_revision_that_was_filled_in_is_that_of_the_resumed_run(options: dict[str, Any]) -> None:
    """As a run from the hub: its train.yaml has the commit that was fetched, its options name none."""
    folder = RunFolder(Path(options["output"]))
    folder.path.mkdir()
    folder.config.write_text(configure(options, revision="0123abc").resolved().to_yaml(), encoding="utf-8")
    again = configure(options, resume=True).resolved()
    assert folder.revision(again) == "0123abc"
    folder.check(replace(again, revision=folder.revision(again)))
    assert folder.revision(replace(again, resume=False)) is None
    assert folder.revision(replace(again, base="another")) is None
    assert folder.revision(replace(again, revision="456")) == "456"
    with pytest.raises(UserError, match="revision '0123abc' -> '456'"):
        folder.check(replace(again, revision="456"))


@pytest.mark.parametrize("name", ["optimizer.pt", "adapter/adapter_model.safetensors", "trainer_state.json"])
def test_a_truncated_checkpoint_is_refused(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _train_until(configure(options), 2, monkeypatch)
    checkpoint = RunFolder(Path(options["output"])).last_checkpoint()
    assert checkpoint is not None
    check_checkpoint(checkpoint)
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is broken"):
        train(configure(options, resume=True))


def test_the_best_checkpoint_is_kept_not_the_last(options: dict[str, Any]) -> None:
    # a rate that grows without bound after a good start: the loss falls, then rises
    result = train(configure(options, lr=0.5, warmup=0.9, epochs=3, eval_steps=1, max_grad_norm=0))
    rows = [row for row in log_of(options["output"]) if "eval_loss" in row and row["step"] > 0]
    best = min(rows, key=lambda row: row["eval_loss"])
    assert best["step"] < rows[-1]["step"]
    assert best["eval_loss"] < rows[-1]["eval_loss"]
    assert (result.best_step, result.best_metric) == (best["step"], best["eval_loss"])
    assert log_of(options["output"])[-1]["best_step"] == best["step"]
    held_out = load_rows(result.config)[1]
    assert held_out is not None
    loss = build_loss(result.config, result.model)
    trainer = LacosTrainer(
        model=result.model, args=_quiet(options, eval_rows=len(held_out)), eval_dataset=held_out, loss=loss
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best["eval_loss"], abs=1e-6)


def _quiet(options: dict[str, Any], *, eval_rows: int = 0) -> Any:
    folder = RunFolder(Path(options["output"]))
    return training_arguments(configure(options).resolved(), folder, rows=100, eval_rows=eval_rows, sts=False)


def test_sts_evaluation_during_training(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "graded.en-en.tsv"
    file.write_text("5\ta man walks\ta man walks on\n3\ta man\ta guitar\n0\tthe street\tx plays\n", encoding="utf-8")
    result = train(configure(options, eval_sts=str(file), best="sts", eval_rows=0))
    found = [row["eval_sts_spearman_max"] for row in log_of(options["output"]) if "eval_sts_spearman_max" in row]
    assert (result.best_by, result.best_metric) == ("sts", max(found[1:]))


def test_validation_split_keeps_first_sentences_apart(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"anchor {i // 3}\tpositive {i}\n" for i in range(90)), encoding="utf-8")
    rows, held_out = load_rows(configure(options, data=str(file)))
    assert held_out is not None
    assert len(rows) + len(held_out) == 90
    assert len(held_out) == 9
    assert not set(rows["anchor"]) & set(held_out["anchor"])


def test_validation_split_keeps_mirrored_pairs_apart(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"a{i}\tb{i}\nb{i}\ta{i}\n" for i in range(60)), encoding="utf-8")
    rows, held_out = load_rows(configure(options, data=str(file)))
    assert held_out is not None
    assert len(held_out) == 12
    assert not {*rows["anchor"], *rows["positive"]} & {*held_out["anchor"], *held_out["positive"]}
    assert "no validation" not in caplog.text
    file.write_text("".join(f"a{i // 30}\tb{i}\n" for i in range(120)), encoding="utf-8")
    rows, held_out = load_rows(configure(options, data=str(file)))
    assert (len(rows), held_out) == (120, None)
    assert "no validation: of 120 rows a tenth at most is split off" in caplog.text


@pytest.mark.parametrize(
    ("rows", "more", "held_out"),
    [
        (500, {}, None),  # a tenth is one group of 50 with one anchor
        (15, {}, None),  # a tenth is one row
        (500, {"method": "sbert"}, 50),  # which needs no negative
        (500, {"allow_duplicates": True}, 50),  # the loss has negatives, if false ones
    ],
)
def test_validation_rows_without_a_negative_are_none(
    options: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rows: int,
    more: dict[str, Any],
    held_out: Any,
) -> None:
    file = tmp_path / "rows.tsv"
    label = ("entailment\t", "neutral\t", "contradiction\t") if "method" in more else ("",) * 3
    texts = [
        f"{label[i % 3]}How is topic {i // 50}?\tanswer {i}\n" if rows > 15 else f"a{i}\tb{i}\n" for i in range(rows)
    ]
    file.write_text("".join(texts), encoding="utf-8")
    found, aside = load_rows(configure(options, data=str(file), **more))
    assert aside is None if held_out is None else len(aside) == held_out
    assert len(found) == rows - (held_out or 0)
    assert ("no validation" in caplog.text) == (held_out is None)


def test_eval_data_without_a_negative_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("".join(f"one question\tanswer {i}\n" for i in range(20)), encoding="utf-8")
    with pytest.raises(UserError, match="none has a negative and the loss is 0"):
        load_rows(configure(options, eval_data=[str(file)]))


def test_validation_rows_that_no_batch_reaches_are_told(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text("".join(f"question {i % 4}\tanswer {i}\n" for i in range(64)), encoding="utf-8")
    load_rows(configure(options, eval_data=[str(file)], batch_size=16))
    assert "the validation loss is of 16 of its 64 rows, in batches of 4.0 rows on average" in caplog.text


def test_rows_of_an_evaluation_set_are_left_out(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("".join(f"anchor {i}\tpositive {i}\n" for i in range(20)), encoding="utf-8")
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "x.en-en.tsv").write_text("1\tAnchor  3\tz\n2\tz\tpositive 5\n", encoding="utf-8")
    rows, _ = load_rows(
        configure(options, data=str(tmp_path / "pairs.tsv"), exclude_sts=str(tmp_path / "sts"), eval_rows=0)
    )
    assert sorted(rows["anchor"]) == sorted(f"anchor {i}" for i in range(20) if i not in (3, 5))


def test_lacos_refuses_a_base_with_something_trainable(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lacos_st import adapters

    stock = adapters.add_lora_

    def leaky(model: torch.nn.Module, **kwargs: Any) -> None:
        stock(model, **kwargs)
        model.ln_f.weight.requires_grad_(True)

    monkeypatch.setattr(adapters, "add_lora_", leaky)
    with pytest.raises(UserError, match=r"ln_f\.weight"):
        train(configure(options))


def test_restoring_a_checkpoint_never_touches_the_base(options: dict[str, Any], tmp_path: Path) -> None:
    result = train(configure(options, eval_rows=0))
    model, folder = result.model, tmp_path / "checkpoint-1"
    model.save_pretrained(str(folder))
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.zero_()
    trainer = LacosTrainer(model=model, args=_quiet(options), loss=build_loss(result.config, model))
    bias = model[0].model.ln_f.bias
    bias.data += 1  # another base than the checkpoint's: restoring must neither take it nor mend it
    with pytest.raises(UserError, match="in memory were changed since the training began"):
        trainer._load_from_checkpoint(str(folder))
    changed = bias.data.clone()
    assert not any(p.any() for name, p in model.named_parameters() if ".lora_" in name)
    bias.data.copy_(saved["0.model.ln_f.bias"])
    trainer._load_from_checkpoint(str(folder))
    assert not torch.equal(changed, bias.data)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


def test_softmax_weights_are_told_from_the_models(options: dict[str, Any], base: dict[str, str]) -> None:
    config = configure(options, method="sbert", base=base["bert"]).resolved()
    loss = build_loss(config, build_model(config))
    assert set(own_weights(loss)) == {"classifier.weight", "classifier.bias"}


def test_gradient_checkpointing_changes_no_bit_of_the_loss(options: dict[str, Any], tmp_path: Path) -> None:
    one = train(configure(options, max_steps=3))
    two = train(configure(options, max_steps=3, gradient_checkpointing=True, output=str(tmp_path / "two")))
    assert one.train_loss == pytest.approx(two.train_loss, abs=1e-6)


def test_scale_reaches_the_loss_and_code_the_base(options: dict[str, Any]) -> None:
    config = configure(options, scale=7, code="linear", pooling="lasttoken", alibi="reference").resolved()
    model = build_model(config)
    assert build_loss(config, model).scale == 7
    assert (model[0].code, model[0].alibi, model[0].block_size) == ("linear", "reference", 64)
    assert model[1].pooling_mode == "lasttoken"


def test_overwrite_leaves_other_files_and_the_old_model_until_the_new_one(options: dict[str, Any]) -> None:
    folder = RunFolder(Path(options["output"]))
    train(configure(options, max_steps=1, eval_rows=0))
    (folder.path / "notes.txt").write_text("mine")
    old = embeddings(folder.model)
    with pytest.raises(UserError, match="loss was"):
        train(configure(options, lr=1e30, overwrite=True))
    assert torch.equal(embeddings(folder.model), old)
    train(configure(options, max_steps=2, eval_rows=0, overwrite=True))
    assert not torch.equal(embeddings(folder.model), old)
    assert (folder.path / "notes.txt").read_text() == "mine"


def test_the_token_embedding_stays_on_the_host_when_asked(options: dict[str, Any]) -> None:
    model = build_model(TrainConfig.from_mapping({**options, "embedding_device": "cpu"}).resolved())
    assert model[0].embedding_device == "cpu"
    assert model[0].model.get_input_embeddings().get_base_layer().on_host
    with pytest.raises(UserError, match="method full has none"):
        TrainConfig.from_mapping({**options, "method": "full", "embedding_device": "cpu"}).resolved()
