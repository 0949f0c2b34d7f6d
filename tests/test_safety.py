"""Loading is safe: no pickle, no path or link out of the folder, no code, no memory that the files do not hold."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from lacos_st import LoRA8bit, UserError, encoder
from lacos_st.folder import CONFIG_LIMIT_BYTES, VOCABULARY_LIMIT_BYTES, check_folder, read_json
from lacos_st.headers import HEADER_LIMIT_BYTES, read_header
from lacos_st.loading import load_base, read_config


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


def refused(folder: Path, message: str, **options: object) -> None:
    """Refused through sentence-transformers and through the module, with the same words."""
    with pytest.raises(UserError, match=message):
        SentenceTransformer(str(folder), device="cpu", **options)
    with pytest.raises(UserError, match=message):
        LoRA8bit(str(folder), block_size=64, lora_rank=2)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    tiny.reseal(file.parent)


# Pickles


@pytest.mark.parametrize(
    ("pickle", "instead"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("adapter/adapter_model.bin", "adapter/adapter_model.safetensors"),
        ("1_Pooling/pytorch_model.bin", None),
    ],
)
def test_pickles_are_refused_unopened(saved: Path, pickle: str, instead: str | None) -> None:
    if instead:
        (saved / instead).unlink()
    torch.save({}, saved / pickle)
    refused(saved, "is a pickle, which can run code of its author's when it is opened: it is not read")


def test_a_pickle_of_the_hub_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a hub name there is no folder to look at beforehand: transformers is told to read safetensors only."""
    commit = "0" * 40
    repository = tmp_path / "models--a--b"
    folder = Path(tiny.save(repository / "snapshots" / commit))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    options = {"block_size": 64, "lora_rank": 2, "model_kwargs": {"cache_dir": str(tmp_path)}}
    hub = {key: {"cache_dir": str(tmp_path)} for key in ("processor_kwargs", "config_kwargs")}
    LoRA8bit("a/b", **options, **hub)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load the weights of 'a/b': .*safetensors"):
        LoRA8bit("a/b", **options, **hub)


def test_a_pickle_beside_safetensors_is_left_alone(saved: Path) -> None:
    (saved / "pytorch_model.bin").write_bytes(b"no pickle at all")
    SentenceTransformer(str(saved), device="cpu")


# Paths


@pytest.mark.parametrize("path", ["../x", "/etc", "C:\\x", "a/../../x", 7, None])
def test_modules_json_cannot_leave_the_folder(saved: Path, path: object) -> None:
    file = saved / "modules.json"
    entries = json.loads(file.read_text())
    entries[1]["path"] = path
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"modules\.json names the folder .* which leaves the model's own"):
        LoRA8bit(str(saved), block_size=64, lora_rank=2)
    with pytest.raises((UserError, ValueError), match="Invalid model path"):  # sentence-transformers reads it first
        SentenceTransformer(str(saved), device="cpu")


@pytest.mark.parametrize("path", ["../x.safetensors", "/x.safetensors", "pytorch_model.bin", 7])
def test_an_index_cannot_leave_the_folder(saved: Path, path: object) -> None:
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"ln_f.weight": path}}))
    refused(saved, "index.json names the file .* expected safetensors files in its own folder")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "adapter", "adapter/adapter_model.safetensors"])
def test_links_out_of_the_folder_are_not_followed(saved: Path, tmp_path: Path, name: str) -> None:
    shutil.move(saved / name, tmp_path / "elsewhere")
    (saved / name).symlink_to(tmp_path / "elsewhere")
    refused(saved, "is a link out of the model's folder, to .*elsewhere: it is not followed")


def test_links_in_the_folder_and_in_the_hubs_cache_are_followed(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").rename(saved / "weights")
    (saved / "model.safetensors").symlink_to("weights")
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    shutil.copytree(saved, snapshot)
    blobs.mkdir()
    shutil.move(snapshot / "config.json", blobs / "abc")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    SentenceTransformer(str(saved), device="cpu")
    SentenceTransformer(str(snapshot), device="cpu")


def test_a_tokenizers_file_elsewhere(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    edit(saved / "tokenizer_config.json", tokenizer_file=str(tmp_path / "secret.json"))
    refused(saved, r"names '.*', outside the model's folder \(tokenizer_file\)")


def test_an_adapter_of_pefts_is_no_model(saved: Path) -> None:
    (saved / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    refused(saved, "is an adapter of peft's")


# Code


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False])
def test_no_code_of_the_folder_runs_with_trust_remote_code(saved: Path, file: str, known: bool) -> None:
    ran = saved.parent / "ran"
    for name in ("evil.py", "transformer.py", "lacos_st.py"):
        (saved / name).write_text(f"open({str(ran)!r}, 'w')\n")
    autos = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T"] * 2}
    changes: dict[str, object] = {"auto_map": autos}
    if not known:
        changes |= {"model_type": "evil", "tokenizer_class": "Evil"}
    edit(saved / file, **changes)
    for load in (
        lambda: SentenceTransformer(str(saved), device="cpu", trust_remote_code=True),
        lambda: LoRA8bit(
            str(saved),
            block_size=64,
            lora_rank=2,
            model_kwargs={"trust_remote_code": True},
            config_kwargs={"trust_remote_code": True},
            processor_kwargs={"trust_remote_code": True},
        ),
    ):
        try:
            load()
        except UserError:
            pass
        assert not ran.exists()


@pytest.mark.parametrize("spared", ["lacos_st.transformer.without_remote_code", "lacos_st.loading"])
def test_each_refusal_of_code_holds_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: Path, spared: str
) -> None:
    """sentence-transformers hands the flag to the module, the module to transformers: each place says no."""
    ran = tmp_path / "ran"
    if spared == "lacos_st.loading":
        folder = Path(tiny.save(tmp_path / "llama", "llama"))
    else:
        folder = saved
        monkeypatch.setattr(spared, lambda options: options)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    autos = {"AutoConfig": "evil.C", "AutoModel": "evil.M", "AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T"] * 2}
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": autos}))
    if folder == saved:
        tiny.reseal(folder)
        with suppress(UserError):  # where nobody said no, transformers asks the terminal, which is not there
            SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    else:
        config = read_config(str(folder), trust_remote_code=True)
        load_base(str(folder), config, quantization=None, dtype=torch.float32, trust_remote_code=True)
    assert not ran.exists()


# Sizes


def test_json_has_a_limit(saved: Path) -> None:
    with (saved / "config.json").open("ab") as file:
        file.truncate(CONFIG_LIMIT_BYTES + 1)
    refused(saved, r"config\.json has \d+ bytes, and at most \d+ are read")


@pytest.mark.parametrize(
    ("name", "limit"), [("modules.json", CONFIG_LIMIT_BYTES), ("tokenizer.json", VOCABULARY_LIMIT_BYTES)]
)
def test_json_is_measured_before_it_is_read(tmp_path: Path, name: str, limit: int) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(limit + 1)
    with pytest.raises(UserError, match=rf"{name} is broken \(it has {limit + 1} bytes, and at most {limit} are read"):
        read_json(tmp_path / name)


def crafted(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


MOST_BYTES_PER_BYTE = 30
HUGE = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or no safetensors"),
        (crafted({}, length=2**62), "announces a header of"),
        (crafted({}, b"\0" * (HEADER_LIMIT_BYTES + 1), HEADER_LIMIT_BYTES + 1), "announces a header of"),
        (crafted({"a": HUGE}, b"\0" * 4), "which its shape does not take"),
        (crafted({"a": {**HUGE, "data_offsets": [0, 4 * 10**12]}}, b"\0" * 4), "truncated: the header announces"),
        (crafted({"a": {**HUGE, "shape": [-1, -1]}}, b"\0" * 4), "no whole number"),
        (crafted({"a": {**HUGE, "shape": [1] * 65}}, b"\0" * 4), "too many dimensions"),
        (crafted({"a": {**HUGE, "shape": [2**63, 0], "data_offsets": [0, 0]}}), "no whole number below"),
        (crafted({"a": {**HUGE, "dtype": "F999"}}, b"\0" * 4), "not known"),
        (
            crafted({name: {**HUGE, "shape": [1]} for name in "ab"}, b"\0" * 4),
            "gap or an overlap",
        ),
        (crafted({}, b"\0" * 4), "too long"),
        (crafted([]), "broken"),
        (crafted({"a": 1}), "broken"),
        (b"\x10\0\0\0\0\0\0\0" + b"[" * 16, "broken"),
    ],
)
def test_crafted_headers(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(content) + 2**16
    finally:
        tracemalloc.stop()


DENSE = {
    "objects": lambda: b"[" + b"{}," * 300_000 + b"{}]",
    "lists": lambda: b'{"a": [' + b"[]," * 300_000 + b"[]]}",
    "keys": lambda: json.dumps({f"{i:x}": {} for i in range(60_000)}).encode(),
    "entries": lambda: json.dumps({f"{i:x}": {**HUGE, "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}),
    "a shape": lambda: json.dumps({"a": {**HUGE, "shape": [1] * 400_000}}),
    "digits": lambda: json.dumps({"a": {**HUGE, "shape": [10**4200] * 250}}),
    "names": lambda: json.dumps({"\U0001f600" + "a" * 500_000: HUGE}, ensure_ascii=False),
}


@pytest.mark.parametrize("kind", DENSE)
def test_a_dense_header_takes_a_small_multiple_of_its_file(tmp_path: Path, kind: str) -> None:
    """The densest JSON that we know: an empty object, three bytes of text, takes 72 of memory, so 24 for each."""
    made = DENSE[kind]()
    text = made.encode() if isinstance(made, str) else made
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    assert file.stat().st_size > 2**18
    tracemalloc.start()
    began = time.process_time()
    try:
        read_header(file)
    except UserError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - began < 20
    assert peak < MOST_BYTES_PER_BYTE * file.stat().st_size


def test_many_long_numbers_are_not_multiplied(tmp_path: Path) -> None:
    text = json.dumps({"a": {**HUGE, "shape": [10**4200] * 1000}}).encode()
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    began = time.process_time()
    with pytest.raises(UserError, match="too many dimensions"):
        read_header(file)
    assert time.process_time() - began < 10  # the product alone took minutes


@pytest.mark.parametrize(
    "changes", [{"vocab_size": 10**12}, {"hidden_size": 10**9}, {"n_layer": 10**9}, {"hidden_size": 10**30}]
)
def test_a_config_cannot_ask_for_more_than_the_files_hold(saved: Path, changes: dict[str, int]) -> None:
    edit(saved / "config.json", **changes)
    refused(saved, "cannot load the weights of|cannot be loaded|cannot load")


def test_a_rank_cannot_ask_for_more_than_the_adapter_holds(saved: Path) -> None:
    lora = json.loads((saved / "lacos.json").read_text())["lora"]
    edit(saved / "lacos.json", lora={**lora, "rank": 10**9})
    edit(saved / "sentence_bert_config.json", lora_rank=10**9)
    with pytest.raises(UserError, match=r"has rank 2, and lacos\.json says 1000000000"):
        SentenceTransformer(str(saved), device="cpu")


def test_unknown_options_are_refused(saved: Path) -> None:
    edit(saved / "sentence_bert_config.json", tokenizer_name_or_path="/etc")
    with pytest.raises(UserError, match=r"unknown options \(tokenizer_name_or_path\)"):
        SentenceTransformer(str(saved), device="cpu")


def test_a_good_folder_passes(saved: Path) -> None:
    check_folder(saved)
