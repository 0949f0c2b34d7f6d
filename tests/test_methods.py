"""Each method's first steps against plain sentence-transformers and torch; what it trains and what stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch.nn.functional import cross_entropy, normalize

from lacos_st.adapters import lora_layers
from lacos_st.checkpoint import base_state
from lacos_st.errors import UserError
from lacos_st.freezing import freeze_blocks_, frozen_hash, train_biases_
from lacos_st.linear import dequantize_
from lacos_st.losses import own_weights
from lacos_st.methods import build_model
from lacos_st.settings import TrainConfig
from lacos_st.trainer import LacosTrainer
from lacos_st.training import train

PAIRS = [("a man plays a guitar", "a man plays"), ("the street is long", "long street"), ("x", "x y"), ("दो", "बच्चे दो")]
PAIRS += [("a guitar walks", "guitar"), ("man and street", "a man on a street and a guitar")]
LABELS = ("entailment", "neutral", "contradiction")
STEPS, LR, WARMUP, DECAY, SCALE, RANK = 4, 1e-3, 2, 0.1, 40.0, 6

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("lacos", "bloom", {"symmetric": True}),
    ("lora", "gpt_neox", {"lora_targets": "recipe", "symmetric": True}),
    ("full", "gpt_neox", {"symmetric": True, "mini_batch_size": 4}),
    ("freeze", "bloom", {"frozen_blocks": 1, "symmetric": True}),
    ("bias", "gpt_neox", {"symmetric": True}),
    ("sbert", "bert", {}),
]
MORE: list[tuple[str, str, dict[str, Any]]] = [
    ("lora", "bloom", {"mini_batch_size": 4}),
    ("full", "bloom", {}),
    ("freeze", "bloom", {"frozen_blocks": 1, "gradient_checkpointing": True}),
    ("freeze", "gpt_neox", {"frozen_blocks": 1, "symmetric": True, "mini_batch_size": 4}),
    ("freeze", "llama", {"frozen_blocks": 2}),
    ("freeze", "bert", {"frozen_blocks": 0}),
    ("bias", "bloom", {"symmetric": True}),
    ("bias", "bert", {}),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: tiny.save(tmp_path_factory.mktemp(name), name) for name in tiny.ARCHITECTURES}


def configure(base: str, method: str, folder: Path, **options: Any) -> TrainConfig:
    rows = [
        f"{label}\t{a}\t{b}\n" if method == "sbert" else f"{a}\t{b}\n"
        for (a, b), label in zip(PAIRS, LABELS * 2, strict=True)
    ]
    (folder / "rows.tsv").write_text("".join(rows), encoding="utf-8")
    run = {"base": base, "data": str(folder / "rows.tsv"), "output": str(folder / "run"), "method": method}
    run |= {"batch_size": len(PAIRS), "epochs": STEPS, "eval_rows": 0, "block_size": 64, "cpu": True, "progress": False}
    run |= {"optimizer": "adamw", "lr": LR, "warmup": WARMUP, "weight_decay": DECAY, "scheduler": "cosine"}
    if method != "sbert":
        run["scale"] = SCALE
    if method in ("lacos", "lora"):
        run["lora_rank"] = RANK
    return TrainConfig.from_mapping({**run, **options}).resolved()


def without_dropout_(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def plain_model(config: TrainConfig) -> SentenceTransformer:
    """Stock modules with the run's weights; its adapters, if any, are stock peft's."""
    stock = Transformer(config.base)
    base = stock.model
    if getattr(base, "pooler", None) is not None:
        base.pooler = None
    if config.method in ("lacos", "lora"):
        torch.manual_seed(config.seed)
        ours = build_model(config)[0].model
        dequantize_(ours)
        base.load_state_dict(base_state(ours), strict=True)
        targets = config.lora_targets[0]
        names = lora_layers(base, targets)
        base.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names, task_type="FEATURE_EXTRACTION"))
        adapter = {name: weight for name, weight in ours.state_dict().items() if ".lora_" in name}
        assert not base.load_state_dict(adapter, strict=False).unexpected_keys
    return SentenceTransformer(modules=[stock, Pooling(stock.get_embedding_dimension(), "mean")], device="cpu")


def trained_by_hand(name: str, method: str, blocks: int) -> bool:
    """What the method trains, by the names that the architectures in `tiny` have."""
    if method in ("lacos", "lora"):
        return ".lora_" in name
    if method == "bias":
        return name.endswith(".bias")
    if method == "freeze":
        embeddings = ("word_embeddings", "embed_", "embeddings.")
        frozen = [f"{stem}.{number}." for number in range(blocks) for stem in ("h", "layers", "layer")]
        return not name.startswith(embeddings) and not any(f".{stem}" in f".{name}" for stem in frozen)
    return True


def loss_by_hand(model: SentenceTransformer, config: TrainConfig, classifier: dict[str, torch.Tensor]) -> torch.Tensor:
    left, right = (model({**model.preprocess([pair[side] for pair in PAIRS])})["sentence_embedding"] for side in (0, 1))
    if config.method == "sbert":
        together = torch.cat([left, right, (left - right).abs()], 1)
        labels = torch.tensor([{"entailment": 0, "neutral": 1, "contradiction": 2}[label] for label in LABELS * 2])
        return cross_entropy(together @ classifier["classifier.weight"].T + classifier["classifier.bias"], labels)
    cosines = SCALE * normalize(left) @ normalize(right).T
    own = torch.arange(len(PAIRS))
    one_way = cross_entropy(cosines, own)
    return (one_way + cross_entropy(cosines.T, own)) / 2 if config.symmetric else one_way


def steps_by_hand(
    config: TrainConfig, first: dict[str, torch.Tensor]
) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """Loss and gradients of each step: AdamW without decay of vectors, a warm-up, half a cosine, clipped gradients."""
    model = plain_model(config)
    model.train()
    without_dropout_(model)
    base = model.double()[0].model
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(trained_by_hand(name, config.method, config.frozen_blocks or 0))
    classifier = {name: weight.clone().requires_grad_(True) for name, weight in first.items()}
    weights = [p for p in (*base.parameters(), *classifier.values()) if p.requires_grad]
    matrices, vectors = [p for p in weights if p.ndim > 1], [p for p in weights if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR)
    for step in range(STEPS):
        rate = step / WARMUP if step < WARMUP else (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))) / 2
        for group in optimizer.param_groups:
            group["lr"] = LR * rate
        loss = loss_by_hand(model, config, classifier)
        optimizer.zero_grad()
        loss.backward()
        yield float(loss.detach()), {n: p.grad.clone() for n, p in base.named_parameters() if p.grad is not None}
        torch.nn.utils.clip_grad_norm_(base.parameters(), 1.0)  # the stock trainer leaves the classifier's out
        optimizer.step()


@pytest.mark.parametrize(
    ("method", "architecture", "options"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_first_steps_are_those_of_plain_torch(
    bases: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, architecture: str, options: Any
) -> None:
    config = configure(bases[architecture], method, tmp_path, **options)
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    first: dict[str, torch.Tensor] = {}
    stock = LacosTrainer.training_step

    def watched(self: LacosTrainer, model: SentenceTransformer, *args: Any, **kwargs: Any) -> torch.Tensor:
        without_dropout_(self.model)
        if not seen:
            self.model.double()  # the parameters stay the optimiser's: rounding is out of the way
            self.loss.double()
            first.update({name: weight.clone() for name, weight in own_weights(self.loss).items()})
        loss = stock(self, model, *args, **kwargs)
        named = self.model[0].model.named_parameters()
        seen.append((float(loss), {name: p.grad.clone() for name, p in named if p.grad is not None}))
        return loss

    monkeypatch.setattr(LacosTrainer, "training_step", watched)
    result = train(config)
    assert result.steps == len(seen) == STEPS
    for (loss, grads), (expected_loss, expected) in zip(seen, steps_by_hand(config, first), strict=True):
        assert loss == pytest.approx(expected_loss, abs=1e-6)  # found: 1e-9
        assert grads.keys() == expected.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.manual_seed(config.seed)
    before = build_model(config)[0].model.state_dict()
    for name, tensor in result.model[0].model.state_dict().items():
        trained = trained_by_hand(name, method, config.frozen_blocks or 0)
        assert torch.equal(tensor, before[name].to(tensor.dtype)) != trained, name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lora_on_a_base_of_16_bits(bases: dict[str, str], tmp_path: Path, dtype: str) -> None:
    config = configure(bases["gpt_neox"], "lora", tmp_path, dtype=dtype, lora_rank=100, lora_targets="recipe")
    result = train(config)
    base = result.model[0].model
    assert {str(p.dtype) for p in base.parameters() if not p.requires_grad} == {f"torch.{dtype}"}
    assert {str(p.dtype) for p in base.parameters() if p.requires_grad} == {"torch.float32"}
    assert result.trainable_parameters == 100 * (2 * (4 * 64 + 2 * 64 + 2 * 192) + tiny.VOCABULARY + 64)
    assert math.isfinite(result.train_loss)
    assert any(p.abs().max() > 0 for name, p in base.named_parameters() if ".lora_B" in name)


def test_what_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="a llama has no biases to train: choose lora"):
        train_biases_(tiny.model("llama"))
    with pytest.raises(UserError, match="frozen_blocks is 3: the model has 2 blocks"):
        freeze_blocks_(tiny.model("bloom"), 3)
    bert = tiny.model("bert")
    bert.pooler = None
    with pytest.raises(UserError, match="nothing is left to train"):
        freeze_blocks_(bert, 2)


def test_the_hash_of_what_is_frozen_sees_a_change_of_it_and_of_nothing_else() -> None:
    model = tiny.model("bloom")
    freeze_blocks_(model, 1)
    before = frozen_hash(model)
    model.h[1].mlp.dense_4h_to_h.weight.data += 1
    assert frozen_hash(model) == before
    model.h[0].mlp.dense_4h_to_h.bias.data[0] += 1e-6
    assert frozen_hash(model) != before


def test_a_prompt_stands_before_queries_and_documents_too(bases: dict[str, str], tmp_path: Path) -> None:
    model = build_model(configure(bases["bloom"], "lacos", tmp_path, prompt="a guitar: "))
    model.save_pretrained(str(tmp_path / "model"))
    for each in (model, SentenceTransformer(str(tmp_path / "model"), device="cpu")):
        expected = each.encode(["a man"], prompt="a guitar: ")
        for encode in (each.encode, each.encode_query, each.encode_document):
            assert (encode(["a man"]) == expected).all()


def test_a_saved_models_prompt_is_not_left_out(bases: dict[str, str], tmp_path: Path) -> None:
    model = build_model(configure(bases["bloom"], "lacos", tmp_path, prompt="a guitar: "))
    model.save_pretrained(folder := str(tmp_path / "model"))
    with pytest.raises(UserError, match="'a guitar: '.*--prompt"):
        build_model(configure(folder, "lacos", tmp_path))
    assert build_model(configure(folder, "lacos", tmp_path, prompt="a guitar: ")).prompts == model.prompts
    assert not build_model(configure(folder, "lacos", tmp_path, prompt="")).prompts["query"]


def test_a_saved_models_pooling_is_the_one_that_is_asked_for(bases: dict[str, str], tmp_path: Path) -> None:
    """It was refused also where it was; what `--preset best` trained could not be trained on."""
    model = build_model(configure(bases["bloom"], "lacos", tmp_path, pooling="lasttoken"))
    model.save_pretrained(folder := str(tmp_path / "model"))
    again = build_model(configure(folder, "lacos", tmp_path, pooling="lasttoken"))
    assert (again.encode(["a man plays"]) == model.encode(["a man plays"])).all()
    for alibi in ("exact", "reference"):
        with pytest.raises(UserError, match="pooling is not mean alone.*name its own, lasttoken"):
            build_model(configure(folder, "lacos", tmp_path, alibi=alibi))


def test_floats_are_not_asked_for_in_8_bits(bases: dict[str, str], tmp_path: Path) -> None:
    """The error was of another base, and the advice to restore it."""
    for method in ("full", "lora"):
        model = build_model(configure(bases["bloom"], method, tmp_path))
        model.save_pretrained(folder := str(tmp_path / method))
        with pytest.raises(UserError, match="saved in floats.*--method lora"):
            build_model(configure(folder, "lacos", tmp_path))
        assert (build_model(configure(folder, "lora", tmp_path)).encode(["a"]) == model.encode(["a"])).all()
