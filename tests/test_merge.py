"""Adapters merged into their mean: what the layers do, against stock peft's own account of an adapter's change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from test_cli import refused

from lacos_st import encoder
from lacos_st.adapters import adapter_parameters
from lacos_st.cli import main
from lacos_st.errors import UserError
from lacos_st.merge import merge_adapters, merge_folders
from lacos_st.models import load_model


def trained(base: str, *, seed: int, **options: Any) -> SentenceTransformer:
    """With an adapter that does something."""
    model = encoder(base, device="cpu", block_size=64, **options)
    chance = torch.Generator().manual_seed(seed)
    for parameter in adapter_parameters(model).values():
        parameter.data = torch.randn(parameter.shape, generator=chance) / 8
    return model.eval()


def changes(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """What the adapter adds to each weight, as peft has it."""
    named = model[0].model.named_modules()
    return {name: layer.get_delta_weight("default") for name, layer in named if hasattr(layer, "get_delta_weight")}


def test_the_change_of_each_weight_is_the_mean_of_the_changes(tiny_bloom_dir: str, tmp_path: Path) -> None:
    one = trained(tiny_bloom_dir, seed=1, lora_rank=3, lora_alpha=6.0)
    other = trained(tiny_bloom_dir, seed=2, lora_rank=2)
    both = merge_adapters([one, other], [0.7, 0.3])
    assert both[0].lora_rank == 5
    found, first, second = changes(both), changes(one), changes(other)
    assert len(found) == 5  # the embedding, and two feed-forward layers in two blocks
    for name, change in found.items():
        torch.testing.assert_close(change, 0.7 * first[name] + 0.3 * second[name])
        assert change.abs().max() > 0.01
    both.save(str(tmp_path / "both"))
    again = load_model(str(tmp_path / "both"), device="cpu").encode(["a text"])
    assert (again == both.encode(["a text"])).all()


def test_a_model_beside_nothing_is_itself(tiny_bloom_dir: str) -> None:
    one, other = (trained(tiny_bloom_dir, seed=seed, lora_rank=2) for seed in (1, 2))
    both = merge_adapters([one, other], [1.0, 0.0])
    torch.testing.assert_close(*(torch.tensor(model.encode(["a text", "two"])) for model in (both, one)))


def test_models_that_do_not_belong_together_are_refused(tiny_bloom_dir: str) -> None:
    one = trained(tiny_bloom_dir, seed=1, lora_rank=2)
    linear = trained(tiny_bloom_dir, seed=1, lora_rank=2, code="linear")
    with pytest.raises(UserError, match="differ in code: dynamic, linear"):
        merge_adapters([one, linear], [0.5, 0.5])
    last = trained(tiny_bloom_dir, seed=1, lora_rank=2)
    last[1].pooling_mode = "lasttoken"
    with pytest.raises(UserError, match="differ in the other modules: .*mean.*lasttoken"):
        merge_adapters([one, last], [0.5, 0.5])
    prompted = trained(tiny_bloom_dir, seed=1, lora_rank=2)
    prompted.prompts = {"query": "a query: "}
    with pytest.raises(UserError, match="differ in prompts"):
        merge_adapters([one, prompted], [0.5, 0.5])
    with pytest.raises(UserError, match="1 weights for 2 models"):
        merge_adapters([one, one], [1.0])
    with pytest.raises(UserError, match="1 weights for 1 models: expected two models or more"):
        merge_adapters([one], [1.0])
    with pytest.raises(UserError, match="model 2 has no adapter"):
        merge_adapters([one, encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=0)], [0.5, 0.5])


LONG = ["First words of a Long sentence that goes on and on", "until it ends with others entirely, and MORE of them"]


def as_the_models(models: list[SentenceTransformer], folder: Path) -> SentenceTransformer:
    """Models that are the same, saved, merged into themselves, saved and loaded again: embeds as each of them does."""
    places = [str(folder / str(place)) for place in range(len(models))]
    for model, place in zip(models, places, strict=True):
        model.save_pretrained(place)
    merge_folders(folder / "both", places)
    both = load_model(str(folder / "both"), device="cpu")
    torch.testing.assert_close(*(torch.tensor(model.encode(LONG)) for model in (both, models[0])))
    return both


def test_the_tokenizer_is_that_of_the_models(tiny_bloom_dir: str, tmp_path: Path) -> None:
    left = [trained(tiny_bloom_dir, seed=1, lora_rank=2) for _ in range(2)]
    for model in left:
        model.tokenizer.truncation_side, model.max_seq_length = "left", 8
    assert as_the_models(left, tmp_path / "left")[0].tokenizer.truncation_side == "left"
    small = [trained(tiny_bloom_dir, seed=1, lora_rank=2, do_lower_case=True) for _ in range(2)]
    as_the_models(small, tmp_path / "small")
    plain = trained(tiny_bloom_dir, seed=1, lora_rank=2)
    with pytest.raises(UserError, match="differ in tokenizer: "):
        merge_adapters([plain, small[0]], [0.5, 0.5])
    left[0].max_seq_length = plain.max_seq_length
    with pytest.raises(UserError, match="differ in truncation_side: right, left"):
        merge_adapters([plain, left[0]], [0.5, 0.5])


def test_the_similarity_and_the_width_are_kept(tiny_bloom_dir: str, tmp_path: Path) -> None:
    models = [trained(tiny_bloom_dir, seed=1, lora_rank=2) for _ in range(2)]
    for model in models:
        model.similarity_fn_name, model.truncate_dim = "dot", 32
    both = as_the_models(models, tmp_path)
    assert (both.similarity_fn_name, both.truncate_dim) == ("dot", 32)
    models[1].truncate_dim = 16
    with pytest.raises(UserError, match="differ in truncate_dim: 32, 16"):
        merge_adapters(models, [0.5, 0.5])
    models[1].similarity_fn_name = "cosine"
    with pytest.raises(UserError, match="differ in similarity_fn_name: dot, cosine"):
        merge_adapters(models, [0.5, 0.5])


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tiny_bloom_dir: str, weight: float) -> None:
    model = trained(tiny_bloom_dir, seed=1, lora_rank=2)
    with pytest.raises(UserError, match=f"a weight is {weight}: give finite numbers"):
        merge_adapters([model, model], [weight, 1.0])


def test_a_sum_that_overflows_is_not_written(tiny_bloom_dir: str, tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("one", "other")]
    for place in places:
        trained(tiny_bloom_dir, seed=1, lora_rank=2).save_pretrained(place)
    with pytest.raises(UserError, match="embeds .* as inf or nan"):
        merge_folders(tmp_path / "both", places, [1e30, 1e30])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_weights_outside_the_adapter_are_refused_and_not_lost(tiny_bloom_dir: str) -> None:
    models = [trained(tiny_bloom_dir, seed=seed, lora_rank=2) for seed in (1, 2)]
    width = models[0].get_embedding_dimension()
    for model in models:
        model.append(Dense(width, width))
    with pytest.raises(UserError, match="model 1 has weights in its Dense, of which no mean is made"):
        merge_adapters(models, [0.5, 0.5])


def test_a_base_that_has_changed_is_refused(tmp_path: Path) -> None:
    base = tiny.save(tmp_path / "base")
    models = [trained(base, seed=seed, lora_rank=2) for seed in (1, 2)]
    tiny.save(tmp_path / "base", seed=7)
    with pytest.raises(UserError, match="is not the base that the models were trained on any more"):
        merge_adapters(models, [0.5, 0.5])


def test_the_base_is_of_the_revision_that_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache as huggingface_hub lays it out, where main has moved on since."""
    repository = tmp_path / "models--someone--bloom"
    (repository / "refs").mkdir(parents=True)
    for name, commit, seed in (("v1", "5" * 40, 0), ("main", "7" * 40, 7)):
        tiny.save(repository / "snapshots" / commit, seed=seed)
        (repository / "refs" / name).write_text(commit)
    hub = {"revision": "v1", "cache_dir": str(tmp_path)}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    files = {name: dict(hub) for name in ("model_kwargs", "config_kwargs", "processor_kwargs")}
    models = [trained("someone/bloom", seed=seed, lora_rank=2, **files) for seed in (1, 2)]
    both = merge_adapters(models, [0.5, 0.5])
    assert both[0].base_sha256 == models[0][0].base_sha256
    assert both[0].base_sha256 != encoder("someone/bloom", device="cpu", block_size=64)[0].base_sha256


def test_the_command(tiny_bloom_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [trained(tiny_bloom_dir, seed=seed, lora_rank=2) for seed in (1, 2)]
    places = [str(tmp_path / name) for name in ("one", "other")]
    for model, place in zip(models, places, strict=True):
        model.save_pretrained(place)
    out = str(tmp_path / "both")
    assert main(["merge", out, *places, "--weights", "0.7", "0.3"]) == 0
    assert capsys.readouterr().out == f"2 adapters, rank 4: {out}\n"
    expected = merge_adapters(models, [0.7, 0.3]).encode(["a text"])
    assert (load_model(out, device="cpu").encode(["a text"]) == expected).all()
    refused(capsys, main(["merge", out, *places]), "is there already")
    fresh = str(tmp_path / "fresh")
    refused(capsys, main(["merge", fresh, *places, "--weights", "1"]), "1 weights for 2 models")
    refused(capsys, main(["merge", fresh, places[0], str(tmp_path / "nothing")]), "no such folder")
    whole = encoder(tiny_bloom_dir, device="cpu", block_size=64, lora_rank=2, self_contained=True)
    whole.save_pretrained(str(tmp_path / "whole"))
    refused(capsys, main(["merge", fresh, places[0], str(tmp_path / "whole")]), "model 2 holds its base")
    refused(capsys, main(["merge", fresh, places[0]]), "two models or more")
    assert not (tmp_path / "fresh").exists()
