"""The seal: each small file of a saved model, and the order of its modules, is what was saved, or an error names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from sentence_transformers import SentenceTransformer

from lacos_st import LoRA8bit, UserError, encoder
from lacos_st.models import load_model
from lacos_st.seal import SEAL_FILE, SEALED

WRITTEN = [name for name in SEALED if name.startswith(("lacos", "adapter/", "config", "sentence_bert", "tokenizer"))]
WRITTEN = [name for name in WRITTEN if name != "tokenizer.model"]
POOLING = "1_Pooling/config.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    model = encoder(tiny.save(root / "base"), device="cpu", block_size=64, lora_rank=2, self_contained=True)
    tiny.stir_(model)
    model.save_pretrained(str(root / "saved"))
    return root / "saved"


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "saved")
    return tmp_path / "saved"


def load(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def test_all_small_files_are_sealed(original: Path) -> None:
    content = json.loads((original / SEAL_FILE).read_text())
    assert set(content["files"]) == {*WRITTEN, POOLING}
    assert content["modules"] == {"": "lacos_st.transformer.BloomLoRA8bit", "1_Pooling": "lacos_st.pooling.Pooling"}
    outside = {"model.safetensors", "modules.json", "README.md", SEAL_FILE, "adapter/adapter_model.safetensors"}
    found = {path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()}
    assert found == {*WRITTEN, POOLING, *outside}


@pytest.mark.parametrize("name", [*WRITTEN, POOLING])
def test_a_changed_or_missing_file_is_named(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    # a blank line changes no JSON: only a hash can tell; safetensors take it as damage, found before or after
    file.write_bytes(content + b"\n")
    with pytest.raises(UserError, match=Path(name).name):
        LoRA8bit(str(saved), block_size=64, lora_rank=2)
    file.unlink()
    with pytest.raises(UserError, match=rf"{Path(name).name}.* missing|missing.*{Path(name).name}|no folder with a"):
        LoRA8bit(str(saved), block_size=64, lora_rank=2)
    file.write_bytes(content)
    LoRA8bit(str(saved), block_size=64, lora_rank=2)


def test_a_change_says_how_to_keep_it(saved: Path) -> None:
    file = saved / POOLING
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "pooling_mode": "max"}))
    with pytest.raises(
        UserError, match=r"1_Pooling.config\.json is not the file that was saved.* SHA-256, "
    ) as refusal:
        load(saved)
    new = str(refusal.value).split("SHA-256, ")[1].split(",")[0]
    seal = json.loads((saved / SEAL_FILE).read_text())
    seal["files"][POOLING] = new
    (saved / SEAL_FILE).write_text(json.dumps(seal))
    assert "max" in load(saved)[1].pooling_mode


def test_a_file_that_was_not_there_is_named(saved: Path) -> None:
    (saved / "added_tokens.json").write_text('{"guitar": 7}')
    with pytest.raises(UserError, match=r"added_tokens\.json was not there when the model was saved: remove it"):
        load(saved)


def test_the_seal_itself(saved: Path) -> None:
    file = saved / SEAL_FILE
    content = json.loads(file.read_text())
    for text in (
        "",
        "[]",
        "7",
        "{}",
        json.dumps({**content, "files": []}),
        json.dumps({**content, "files": {"../x": "0"}}),
        json.dumps({**content, "modules": {"": 7}}),
        "[" * 100_000,
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=r"lacos_files\.json is broken"):
            load(saved)
    file.unlink()
    with pytest.raises(UserError, match=r"lacos_files\.json is missing"):
        load(saved)


EDITS: list[Callable[[list[dict[str, Any]]], Any]] = [
    lambda entries: entries.pop(),
    lambda entries: entries.pop(0),
    lambda entries: entries.reverse(),
    lambda entries: entries[1].update(path="2_Pooling"),
    lambda entries: entries[1].update(path=""),
    lambda entries: entries[1].update(type="sentence_transformers.sentence_transformer.modules.Pooling"),
    lambda entries: entries[1].update(name="0"),
    lambda entries: entries[1].pop("path"),
    lambda entries: entries[1].pop("type"),
    lambda entries: entries.append(entries[1]),
    lambda entries: entries.append({**entries[1], "name": "2"}),
    lambda entries: entries.append(7),
    lambda entries: entries.clear(),
]


@pytest.mark.parametrize("edit", EDITS)
def test_modules_are_those_that_were_saved(saved: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    entries = json.loads((saved / "modules.json").read_text())
    edit(entries)
    (saved / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"modules\.json"):
        load_model(str(saved), device="cpu")
    refusals = (ValueError, KeyError, TypeError, AttributeError)  # sentence-transformers may find it first
    with pytest.raises(refusals, match=r"."):
        load(saved).encode("a man")
    with pytest.raises(UserError, match=r"modules\.json"):
        LoRA8bit(str(saved), block_size=64, lora_rank=2)


def test_a_stock_module_more_is_kept(original: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize

    model = load(original)
    model.append(Normalize())
    model.save_pretrained(str(tmp_path / "normalized"))
    again = load(tmp_path / "normalized")
    np.testing.assert_array_equal(again.encode(tiny.SENTENCES), model.encode(tiny.SENTENCES))


def test_a_folder_is_saved_into_twice(saved: Path) -> None:
    model = load(saved)
    model.prompts = {"query": "find: "}
    model.save_pretrained(str(saved))
    assert load(saved).prompts["query"] == "find: "


@pytest.mark.parametrize("mode", [True, 7, None, "no such", {}, [], [None]])
def test_a_pooling_that_makes_no_sense(saved: Path, mode: object) -> None:
    file = saved / POOLING
    file.write_text(json.dumps({**json.loads(file.read_text()), "pooling_mode": mode}))
    tiny.reseal(saved)
    with pytest.raises(UserError, match=r"cannot be loaded"):
        load(saved)
