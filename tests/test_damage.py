"""A loaded model is the model that was saved, or an error: each test damages a saved model and sees it named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from lacos_st import LoRA8bit, UserError, encoder


def through_sentence_transformers(folder: Path) -> object:
    return SentenceTransformer(str(folder), device="cpu")


def through_the_module(folder: Path) -> object:
    return LoRA8bit(str(folder), block_size=64, lora_rank=2)


LOADERS = [through_sentence_transformers, through_the_module]


def save_model(base: str, folder: Path, **options: object) -> Path:
    torch.manual_seed(0)
    model = encoder(base, device="cpu", block_size=64, lora_rank=2, **options)
    tiny.stir_(model)
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved once: a base, the same in shards, and models on both and with the base inside."""
    root = tmp_path_factory.mktemp("originals")
    tiny.save(root / "base")
    tiny.model().save_pretrained(root / "shards", max_shard_size="60KB")
    tiny.tokenizer().save_pretrained(root / "shards")
    save_model(str(root / "base"), root / "whole", self_contained=True)
    return root


@pytest.fixture
def root(originals: Path, tmp_path: Path) -> Path:
    """A copy to damage; `adapter` and `sharded` name their base by its absolute path, so they are saved here."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    save_model(str(tmp_path / "base"), tmp_path / "adapter")
    save_model(str(tmp_path / "shards"), tmp_path / "sharded")
    return tmp_path


def change(file: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def flip(file: Path, name: str) -> None:
    change(file, lambda tensors: tensors[name].view(torch.uint8).flatten()[:1].bitwise_xor_(1))


def shards(root: Path) -> list[Path]:
    found = sorted((root / "shards").glob("model-*.safetensors"))
    assert len(found) > 2
    return found


def another_revision(root: Path) -> Path:
    tiny.model(seed=7).save_pretrained(root / "base")
    return root / "adapter"


def flipped_bit(root: Path) -> Path:
    flip(root / "base" / "model.safetensors", "h.0.input_layernorm.bias")
    return root / "adapter"


def flipped_bit_in_codes(root: Path) -> Path:
    flip(root / "whole" / "model.safetensors", "h.0.mlp.dense_h_to_4h.codes")
    return root / "whole"


def flipped_bit_in_adapter(root: Path) -> Path:
    file = root / "adapter" / "adapter" / "adapter_model.safetensors"
    flip(file, sorted(load_file(file))[0])
    return root / "adapter"


def truncated_base(root: Path) -> Path:
    file = root / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    return root / "adapter"


def truncated_shard(root: Path) -> Path:
    file = shards(root)[1]
    file.write_bytes(file.read_bytes()[:-8])
    return root / "sharded"


def missing_shard(root: Path) -> Path:
    shards(root)[1].unlink()
    return root / "sharded"


def swapped_shards(root: Path) -> Path:
    first, second = shards(root)[:2]
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)
    return root / "sharded"


def foreign_shard(root: Path) -> Path:
    tiny.model(seed=7).save_pretrained(root / "other", max_shard_size="60KB")
    shutil.copy(root / "other" / shards(root)[0].name, shards(root)[0])
    return root / "sharded"


def missing_base_tensor(root: Path) -> Path:
    change(root / "base" / "model.safetensors", lambda tensors: tensors.pop("h.1.input_layernorm.bias"))
    return root / "adapter"


def codes_without_absmax(root: Path) -> Path:
    change(root / "whole" / "model.safetensors", lambda tensors: tensors.pop("h.1.mlp.dense_h_to_4h.absmax"))
    return root / "whole"


def missing_adapter_tensor(root: Path) -> Path:
    change(root / "adapter/adapter/adapter_model.safetensors", lambda tensors: tensors.pop(sorted(tensors)[0]))
    return root / "adapter"


def extra_adapter_tensor(root: Path) -> Path:
    change(
        root / "adapter/adapter/adapter_model.safetensors",
        lambda tensors: tensors.update({"base_model.model.h.9.lora_A.weight": torch.zeros(2, 64)}),
    )
    return root / "adapter"


def no_adapter(root: Path) -> Path:
    shutil.rmtree(root / "adapter" / "adapter")
    return root / "adapter"


def other_adapter(root: Path, base: str, **options: object) -> Path:
    torch.manual_seed(0)
    encoder(base, device="cpu", block_size=64, **options).save_pretrained(str(root / "other"))
    shutil.rmtree(root / "adapter" / "adapter")
    shutil.copytree(root / "other" / "adapter", root / "adapter" / "adapter")
    return root / "adapter"


def adapter_of_another_rank(root: Path) -> Path:
    return other_adapter(root, str(root / "base"), lora_rank=3)


def adapter_of_another_alpha(root: Path) -> Path:
    return other_adapter(root, str(root / "base"), lora_rank=2, lora_alpha=8)


def adapter_of_another_architecture(root: Path) -> Path:
    return other_adapter(root, tiny.save(root / "llama", "llama"), lora_rank=2)


def newer_version(root: Path) -> Path:
    file = root / "adapter" / "lacos.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 4, "new": True}))
    return root / "adapter"


def other_probes(root: Path) -> Path:
    change(root / "adapter" / "lacos_probes.safetensors", lambda tensors: tensors["embeddings"].mul_(1.01))
    return root / "adapter"


def probes_of_another_width(root: Path) -> Path:
    save_file({"embeddings": torch.zeros(5, 32)}, root / "adapter" / "lacos_probes.safetensors")
    return root / "adapter"


def other_config(root: Path) -> Path:
    file = root / "whole" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "n_head": 2}))
    return root / "whole"


DAMAGES = [
    (another_revision, r"base '.*base' is not the one this model was saved with: .*Restore the base"),
    (flipped_bit, r"base '.*base' is not the one this model was saved with"),
    (flipped_bit_in_codes, r"base '.*whole' is not the one this model was saved with"),
    (flipped_bit_in_adapter, r"adapter in .* is not the one that was saved: its hash is .* Restore the file"),
    (truncated_base, r"model\.safetensors is missing or broken \(truncated: .* fetch or write it again"),
    (truncated_shard, r"model-00002-of-\d+\.safetensors is missing or broken \(truncated: .* fetch or write it again"),
    (missing_shard, r"model-00002-of-\d+\.safetensors is missing or broken .* fetch or write it again"),
    (swapped_shards, r"shard .*model-00001-of-.* is not the one that the index was written for: .* was swapped"),
    (foreign_shard, r"base '.*shards' is not the one this model was saved with"),
    (missing_base_tensor, r"incomplete: 1 tensors are missing \(h\.1\.input_layernorm\.bias"),
    (codes_without_absmax, r"no absmax for h\.1\.mlp\.dense_h_to_4h: .* fetch or write it again"),
    (missing_adapter_tensor, r"does not fit: 1 tensors \(.*missing, none unknown"),
    (extra_adapter_tensor, r"does not fit: none missing, 1 tensors \(h\.9\.lora_A.*unknown"),
    (no_adapter, r"adapter_model\.safetensors is missing or broken .* restore it"),
    (adapter_of_another_rank, r"has rank 3, and lacos\.json says 2: .* restore it, or train again"),
    (adapter_of_another_alpha, r"adapter_config\.json says lora_alpha=8, and lacos\.json 2: .* restore it"),
    (adapter_of_another_architecture, r"does not fit: .* missing, .* unknown.* belongs to another base"),
    (newer_version, r"written by a newer lacos_st: upgrade with pip .* format is 4"),
    (other_probes, r"does not embed as the saved one did: the probe sentences differ by 9.9e-03"),
    (probes_of_another_width, r"holds embeddings of shape \(5, 32\), the model's \(5, 64\)"),
    (other_config, r"does not embed as the saved one did"),
]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_named(
    root: Path, damage: Callable[[Path], Path], message: str, load: Callable[[Path], object]
) -> None:
    folder = tiny.reseal(damage(root))
    with pytest.raises(UserError, match=message):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["adapter", "sharded", "whole"])
def test_undamaged_models_load(root: Path, name: str, load: Callable[[Path], object]) -> None:
    load(root / name)


def test_options_of_another_adapter_are_named(root: Path) -> None:
    for options in ({"lora_rank": 4}, {"lora_rank": 0}, {"lora_rank": 2, "lora_alpha": 3}):
        with pytest.raises(UserError, match=r"saved with an adapter of rank 2, alpha 2 .* asked for with rank"):
            LoRA8bit(str(root / "whole"), block_size=64, **options)


def test_a_checkpoint_of_version_1_is_read(root: Path) -> None:
    file = root / "whole" / "lacos.json"
    content = json.loads(file.read_text())
    expected = SentenceTransformer(str(root / "whole"), device="cpu").encode(tiny.SENTENCES)
    del content["adapter_sha256"]
    file.write_text(json.dumps({**content, "format_version": 1}))
    (root / "whole" / "lacos_files.json").unlink()
    again = SentenceTransformer(str(root / "whole"), device="cpu").encode(tiny.SENTENCES)
    np.testing.assert_array_equal(again, expected)


def test_a_restored_adapter_is_the_one_that_was_saved(root: Path) -> None:
    module = LoRA8bit(str(root / "adapter"), block_size=64, lora_rank=2)
    folder = flipped_bit_in_adapter(root)
    with pytest.raises(UserError, match="is not the one that was saved: its hash is"):
        module.restore_adapter(folder)
