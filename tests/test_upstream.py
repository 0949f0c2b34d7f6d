"""Private names of dependencies: each is there and does what it is used for; without it, another way or a message.

A failure of `test_is_there` after an upgrade means that users of that version take the slower way or read the message.
"""

from __future__ import annotations

import ast
import importlib
import logging
import re
import runpy
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig
from sentence_transformers.base.model import BaseModel
from torch import nn
from torch.nn.functional import gelu
from transformers import AutoConfig

import lacos_st
from lacos_st import adapters, bloom_layer, kernels, linear, product, trainer, upstream  # noqa: F401 (declare hooks)
from lacos_st.errors import UserError
from lacos_st.methods import _checkpoint_activations_

ROOT = Path(lacos_st.__file__).parent
NAMES = {
    "torch": (
        "ops.aten.gelu_",
        "ops.aten.gelu_backward.grad_input",
        "ops.aten.native_layer_norm_backward",
        "ops.aten._scaled_dot_product_flash_attention_for_cpu.default",
        "ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default",
        "ops.bitsandbytes.quantize_blockwise.default",
        "ops.bitsandbytes.dequantize_blockwise.default",
        "native_layer_norm",
        "Tensor._make_wrapper_subclass",
        "_C._disabled_torch_function_impl",
    ),
    "bitsandbytes.functional": ("create_dynamic_map", "create_linear_map"),
    "transformers.models.bloom.modeling_bloom": ("BloomBlock",),
    "transformers.initialization": ("no_init_weights",),
    "transformers.modeling_gguf_pytorch_utils": ("get_gguf_hf_weights_map", "TENSOR_PROCESSORS", "TensorProcessor"),
    "peft": ("LoraConfig._register_custom_module",),
    "sentence_transformers.base.model": ("BaseModel._module_classes",),
    "sentence_transformers.base.modules.transformer": (
        "TRANSFORMER_TASK_DEFAULTS",
        "Transformer._infer_flatten_position_offset",
    ),
}
PAIRS = [(module, name) for module, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_is_there(module: str, name: str) -> None:
    assert upstream.optional(module, name) is not None, upstream.gone(module.partition(".")[0], name, "be fast")


def test_every_name_that_upstream_looks_up_is_in_the_list() -> None:
    text = Path(upstream.__file__).read_text(encoding="utf-8")
    looked_up = set(re.findall(r'(?:optional\(|need\("[\w-]+", )"([\w.]+)", "([\w.]+)"', text.replace("\n    ", "")))
    assert len(looked_up) > 6
    assert looked_up <= set(PAIRS)


def without(monkeypatch: pytest.MonkeyPatch, *gone: str) -> dict[str, Any]:
    """upstream.py run anew where dotted names are missing: its globals."""
    for full in gone:
        module, _, name = full.rpartition(":")
        real = importlib.import_module
        parent, _, last = name.rpartition(".")

        class Lacking:
            """An object less one attribute."""

            def __init__(self, of: Any, path: list[str]) -> None:
                self.of, self.path = of, path

            def __getattr__(self, attribute: str) -> Any:
                if [attribute] == self.path:
                    raise AttributeError(attribute)
                found = getattr(self.of, attribute)
                return Lacking(found, self.path[1:]) if attribute == self.path[0] else found

        def lacking(wanted: str, module: str = module, name: str = name, real: Any = real, kind: Any = Lacking) -> Any:
            return kind(real(wanted), name.split(".")) if wanted == module else real(wanted)

        monkeypatch.setattr(importlib, "import_module", lacking)
    return runpy.run_path(upstream.__file__, run_name="lacos_st.upstream_without")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_torch_operators_the_same_is_computed(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    lacking = without(
        monkeypatch,
        "torch:ops.aten.gelu_",
        "torch:ops.aten.gelu_backward",
        "torch:native_layer_norm",
        "torch:ops.aten.native_layer_norm_backward",
    )
    names = ("gelu_", "gelu_backward", "layer_norm", "layer_norm_backward")
    assert all(lacking[name] is not getattr(upstream, name) for name in names)
    inputs, grad = torch.randn(2, 7, 16).to(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 4e-2}

    def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours.float().squeeze(), theirs.float().squeeze(), **tolerance)

    for there in (lacking, vars(upstream)):  # against autograd: what the operators are used as
        again = inputs.clone()
        assert there["gelu_"](again, approximate="tanh") is again
        close(again, gelu(inputs, approximate="tanh"))
        leaf = inputs.clone().requires_grad_()
        (expected,) = torch.autograd.grad(gelu(leaf, approximate="tanh"), leaf, grad)
        into = grad.clone()
        there["gelu_backward"](into, inputs, approximate="tanh", grad_input=into)
        close(into, expected)
        norm = nn.LayerNorm(16, dtype=dtype)
        nn.init.normal_(norm.weight)
        (expected,) = torch.autograd.grad(norm(leaf), leaf, grad)
        normed, *statistics = there["layer_norm"](inputs, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        close(normed, norm(inputs))
        found = there["layer_norm_backward"](
            grad, inputs, norm.normalized_shape, *statistics, norm.weight, norm.bias, [True, False, False]
        )
        close(found[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_bitsandbytes_operators_its_functions_give_the_same(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    lacking = without(
        monkeypatch, "torch:ops.bitsandbytes.quantize_blockwise", "torch:ops.bitsandbytes.dequantize_blockwise"
    )
    values, table = torch.randn(4, 512), upstream.code_map("dynamic")
    theirs = upstream.quantize_blockwise(values, table, 256)
    ours = lacking["quantize_blockwise"](values, table, 256)
    assert lacking["quantize_blockwise"] is not upstream.quantize_blockwise
    assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(ours, theirs, strict=True))
    back = [there["dequantize_blockwise"](*theirs, table, 256, dtype) for there in (lacking, vars(upstream))]
    assert back[0].dtype == dtype
    assert torch.equal(*back)


@pytest.mark.parametrize("name", ["Tensor._make_wrapper_subclass", "_C._disabled_torch_function_impl"])
def test_without_tensor_subclasses_there_is_a_message(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(UserError, match=rf"torch 2\S+ has no torch\.{name}, .* pip install 'torch"):
        without(monkeypatch, f"torch:{name}")


@pytest.mark.parametrize("code", ["dynamic", "linear"])
def test_without_the_table_there_is_a_message(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    lacking = without(monkeypatch, f"bitsandbytes.functional:create_{code}_map")
    with pytest.raises(UserError, match=rf"bitsandbytes .* has no .*create_{code}_map, .*what the 8-bit codes stand"):
        lacking["code_map"](code)


def test_without_a_schema_writing_is_not_overlooked() -> None:
    operator = torch.ops.aten.add_.Tensor
    tensor = torch.zeros(1)
    assert [t is tensor for t in upstream.written_arguments(operator, (tensor, 1), {})] == [True]
    with pytest.raises(UserError, match=r"torch .* has no OpOverload\._schema"):
        upstream.written_arguments(object(), (tensor, 1), {})


def test_a_modules_parameters_are_its_own() -> None:
    layer = nn.Linear(2, 2)
    upstream.own_parameters(layer).pop("bias")
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


@pytest.mark.parametrize("part", ["cpu_attention", "cpu_attention_backward"])
def test_without_the_cpu_kernel_training_goes_on_through_autograd(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tiny_bloom_dir: str, part: str
) -> None:
    def gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
        torch.manual_seed(0)
        module = lacos_st.BloomLoRA8bit(tiny_bloom_dir, block_size=64, lora_rank=2)
        for parameter in adapters.adapter_parameters(module.model).values():
            nn.init.normal_(parameter, std=0.1)
        out = module.train()({"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.ones(2, 6)})
        embedded: torch.Tensor = out["token_embeddings"]
        embedded.square().sum().backward()
        grads = [parameter.grad for parameter in adapters.adapter_parameters(module.model).values()]
        return embedded.detach(), [grad for grad in grads if grad is not None]

    kernels.choose.cache_clear()
    expected = gradients()
    monkeypatch.setattr(kernels, part, None)
    kernels.choose.cache_clear()
    with caplog.at_level(logging.WARNING, logger="lacos_st.kernels"):
        found = gradients()
    kernels.choose.cache_clear()
    assert "slower in training: torch CPU is missing: torch" in caplog.text
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert len(expected[1]) > 4
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_without_bloom_blocks_there_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = without(monkeypatch, "transformers.models.bloom.modeling_bloom:BloomBlock")
    with pytest.raises(UserError, match=r"transformers 5\S+ has no .*BloomBlock, .* build BLOOM's layers"):
        lacking["bloom_block"](None, 0)


def test_where_a_configuration_came_from(tiny_bloom_dir: str, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(tiny_bloom_dir)
    assert upstream.name_or_path(config) == tiny_bloom_dir
    assert upstream.name_or_path(object()) is None
    assert upstream.commit_hash(config, tiny_bloom_dir) is None  # a folder has none
    assert upstream.commit_hash(config, "no hub/name at all!") is None


def test_the_revision_of_a_hub_model_is_known(tiny_bloom_dir: str, tmp_path: Path) -> None:
    """By a cache as huggingface_hub lays it out; transformers 5.23 no longer says."""
    repository = tmp_path / "models--someone--bloom"
    snapshot = repository / "snapshots" / ("5" * 40)
    shutil.copytree(tiny_bloom_dir, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("5" * 40)
    config = AutoConfig.from_pretrained("someone/bloom", cache_dir=str(tmp_path))
    assert upstream.commit_hash(config, "someone/bloom", cache_dir=str(tmp_path)) == "5" * 40
    shutil.copytree(snapshot, repository / "snapshots" / ("7" * 40))
    (repository / "refs" / "v1").write_text("7" * 40)
    for revision in ("v1", "7" * 40):
        config = AutoConfig.from_pretrained("someone/bloom", cache_dir=str(tmp_path), revision=revision)
        assert upstream.commit_hash(config, "someone/bloom", revision=revision, cache_dir=str(tmp_path)) == "7" * 40
    config._commit_hash = "6" * 40  # as earlier versions of transformers do
    assert upstream.commit_hash(config, "someone/bloom", cache_dir=str(tmp_path)) == "6" * 40


def test_building_without_initialising(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.random.get_rng_state()
    with upstream.no_init_weights():
        nn.init.normal_(torch.empty(3))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    with without(monkeypatch, "transformers.initialization:no_init_weights")["no_init_weights"]():
        nn.init.normal_(torch.empty(3))
    assert not torch.equal(torch.random.get_rng_state(), drawn)


def test_loaded_tensors_are_marked_and_a_model_without_marks_is_an_error(tiny_bloom_dir: str) -> None:
    model = lacos_st.BloomEncoder.from_pretrained(
        tiny_bloom_dir, quantization_config=lacos_st.Blockwise8bitConfig(block_size=64)
    )
    layer = model.h[0].mlp.dense_h_to_4h
    assert upstream.was_loaded(layer.codes)
    assert upstream.was_loaded(layer.absmax)
    upstream.check_marks(model)
    with pytest.raises(UserError, match="has no mark"):
        upstream.check_marks(nn.Linear(2, 2))


def test_checkpointing_is_what_transformers_put_there(tiny_bloom_dir: str) -> None:
    model = lacos_st.BloomEncoder.from_pretrained(tiny_bloom_dir)
    _checkpoint_activations_(model)
    block: Any = model.h[0]
    assert block.gradient_checkpointing
    assert upstream.checkpointing_function(block) is block._gradient_checkpointing_func
    del block._gradient_checkpointing_func
    inputs, calls = torch.ones(3, requires_grad=True), []
    upstream.checkpointing_function(block)(lambda x: calls.append(1) or x * x, inputs).sum().backward()
    assert len(calls) == 2
    assert torch.equal(inputs.grad, torch.full((3,), 2.0))


def test_without_registration_peft_keeps_its_own_layers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.model("bert")
    adapters.add_lora_(model, rank=2, targets="all-linear")
    assert any(type(part) is product.FusedLoRALinear for part in model.modules())
    monkeypatch.delattr(LoraConfig, "_register_custom_module")
    model = tiny.model("bert")
    with caplog.at_level(logging.WARNING, logger="lacos_st.upstream"):
        adapters.add_lora_(model, rank=2, targets="all-linear")
    assert not any(type(part) is product.FusedLoRALinear for part in model.modules())
    assert adapters.adapter_parameters(model)
    assert "peft's own layers are used" in caplog.text


def test_modules_are_registered_beside_others(caplog: pytest.LogCaptureFixture) -> None:
    assert BaseModel._module_classes["lacos_st.transformer.LoRA8bit"] is lacos_st.LoRA8bit

    class Other:
        _module_classes: dict[str, type] = {"theirs": int}

    upstream.register_modules(Other, [lacos_st.LoRA8bit])
    assert sorted(Other._module_classes) == ["lacos_st.transformer.LoRA8bit", "theirs"]
    with caplog.at_level(logging.WARNING, logger="lacos_st.upstream"):
        upstream.register_modules(object, [lacos_st.LoRA8bit])
    assert "trust_remote_code=True" in caplog.text


def test_plain_text_without_the_stock_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = without(monkeypatch, "sentence_transformers.base.modules.transformer:TRANSFORMER_TASK_DEFAULTS")
    assert lacking["text_modality"]() == upstream.text_modality()


def test_positions_begin_where_stock_code_says(tmp_path: Path) -> None:
    module = lacos_st.LoRA8bit(tiny.save(tmp_path, "bert"), block_size=64)
    assert upstream.position_offset(module) == 0
    module.model.embeddings.padding_idx = 1  # as RoBERTa's has it
    upstream.infer_position_offset_(module)
    assert upstream.position_offset(module) == 2
    with pytest.raises(UserError, match=r"sentence-transformers .* has no Transformer\._infer_flatten"):
        upstream.infer_position_offset_(object())


def upstream_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__[1:-1] if not base.__module__.startswith("lacos_st")]


def classes() -> dict[str, type]:
    found = {}
    for path in sorted(ROOT.glob("*.py")):
        if path.stem not in ("__main__", "__init__"):
            module = importlib.import_module(f"lacos_st.{path.stem}")
            own = [item for item in vars(module).values() if isinstance(item, type)]
            own = [item for item in own if not issubclass(item, torch.autograd.Function)]  # a metaclass adds to them
            found |= {f"{c.__module__}.{c.__qualname__}": c for c in own if c.__module__ == module.__name__}
    return found


def test_private_methods_of_theirs_are_overridden_only_where_that_is_declared() -> None:
    for name, cls in classes().items():
        theirs = {hook for base in upstream_bases(cls) for hook in vars(base)}
        ours = {hook for hook, item in vars(cls).items() if hook.startswith("_") and not hook.endswith("__")}
        ours = {hook for hook in ours if callable(getattr(cls, hook))}
        assert ours & theirs == set(upstream.OVERRIDDEN.get(name, ())), name
    assert set(upstream.OVERRIDDEN) <= set(classes())
    assert len(upstream.OVERRIDDEN) >= 4


def test_a_hook_that_is_gone_is_an_error_when_the_class_is_made() -> None:
    class Renamed:
        pass

    with pytest.raises(UserError, match=r"has no Renamed\._load_model, with which lacos_st would hook Ours in"):

        @upstream.overrides("_load_model", package="sentence-transformers")
        class Ours(Renamed):
            def _load_model(self) -> None: ...


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_private_names_are_used_in_one_file(file: Path) -> None:
    if file.name == "upstream.py":
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    ours |= {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    quoted = {
        node.args[1].value
        for node in nodes
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr", "delattr")
        and isinstance(node.args[1], ast.Constant)
    }
    private = {name for name in read | quoted if name.startswith("_") and not name.endswith("__")}
    modules = {f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names}
    modules |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    hidden = {name for name in modules if re.search(r"\._[a-z]", name) and not name.startswith("lacos_st")}
    operators = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} & {"torch.ops", "torch._C"}
    assert not (private - ours) | hidden | operators, "use it in upstream.py, with what happens once it is gone"


def test_the_message_names_the_versions_of_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["peft<1,>=0.19", "sentence-transformers<7,>=6.2", "pytest>=8.3; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert upstream.versions("peft") == ">=0.19,<1"
    assert upstream.versions("transformers") == ""
    message = upstream.gone("sentence-transformers", "X._y", "load")
    assert message.endswith("pip install 'sentence-transformers>=6.2,<7', or a newer lacos_st")


def test_without_metadata_there_is_a_message_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    monkeypatch.setattr(metadata, "version", missing)
    assert upstream.gone("peft", "_x", "y").startswith("peft (not installed) has no _x, with which lacos_st would y: ")
