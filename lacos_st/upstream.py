"""Names of dependencies that no dependency promises to keep: each is used here only, with what happens once it is gone.

Where a public way exists it is taken instead, slower, and the log says so; where there is none, a `UserError` names the
versions that work. The methods of theirs that our classes override stand where the classes do, declared by `overrides`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module, metadata
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn.functional import gelu

from lacos_st.errors import UserError

logger = logging.getLogger(__name__)

Class = TypeVar("Class", bound=type)

OVERRIDDEN: dict[str, tuple[str, ...]] = {}
"""Private methods of dependencies that a class of ours replaces, by the class's dotted name; see `overrides`."""


def versions(package: str) -> str:
    """The versions of `package` that lacos_st allows, as pip writes them (">=6.2,<7"); empty if that is not known."""
    try:
        lines = metadata.requires("lacos_st") or []
    except metadata.PackageNotFoundError:
        return ""
    found = (re.fullmatch(rf"{re.escape(package)}\s*([^\w;\[]*[\d][^;]*)", line) for line in lines)
    return next((",".join(sorted(match[1].strip().split(","), reverse=True)) for match in found if match), "")


def gone(package: str, name: str, purpose: str) -> str:
    """What to tell whoever has a version of `package` without `name`, which is there to `purpose`."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    return (
        f"{package} {version} has no {name}, with which lacos_st would {purpose}: "
        f"pip install '{package}{versions(package)}', or a newer lacos_st"
    )


def need(package: str, module: str, name: str, *, purpose: str) -> Any:
    """`name` (dotted) of `module`.

    Raises:
        UserError: it is gone.
    """
    found = optional(module, name)
    if found is None:
        raise UserError(gone(package, f"{module}.{name}", purpose))
    return found


def optional(module: str, name: str) -> Any:
    """`name` (dotted) of `module`, None if it is gone."""
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError):
        return None


def overrides(*names: str, package: str) -> Callable[[Class], Class]:
    """Declare the private methods of a dependency that a class replaces: once renamed, they would never be called.

    Args:
        *names: of the methods.
        package: whose they are.

    Raises:
        UserError: a base class of theirs no longer has the method.
    """

    def check(cls: Class) -> Class:
        theirs = [base for base in cls.__mro__[1:] if base.__module__.partition(".")[0] != __package__]
        for name in names:
            if not any(name in vars(base) for base in theirs):
                raise UserError(gone(package, f"{theirs[0].__name__}.{name}", f"hook {cls.__name__} in"))
        OVERRIDDEN[f"{cls.__module__}.{cls.__qualname__}"] = names
        return cls

    return check


# torch: operators. They have the signature of the operator, so that a call costs no more than the operator.


def _gelu_(inputs: torch.Tensor, *, approximate: str) -> torch.Tensor:
    return inputs.copy_(gelu(inputs, approximate=approximate))


def _gelu_backward(
    grad: torch.Tensor, inputs: torch.Tensor, *, approximate: str, grad_input: torch.Tensor
) -> torch.Tensor:
    with torch.enable_grad():
        again = inputs.detach().requires_grad_()
        (found,) = torch.autograd.grad(gelu(again, approximate=approximate), again, grad)
    return grad_input.copy_(found)


def _layer_norm(
    inputs: torch.Tensor, shape: Iterable[int], weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axes = tuple(range(-len(list(shape)), 0))
    variance, mean = torch.var_mean(inputs.float(), axes, correction=0, keepdim=True)
    inverse = (variance + eps).rsqrt()
    normed = (inputs - mean) * inverse * weight
    return (normed if bias is None else normed + bias).to(inputs.dtype), mean, inverse


def _layer_norm_backward(
    grad: torch.Tensor,
    inputs: torch.Tensor,
    shape: Iterable[int],
    mean: torch.Tensor,
    inverse: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    mask: list[bool],
) -> tuple[torch.Tensor, None, None]:
    assert mask == [True, False, False], "the weights of a frozen layer norm get no gradient"
    axes = tuple(range(-len(list(shape)), 0))
    normed, scaled = (inputs - mean) * inverse, grad * weight
    found = scaled - scaled.mean(axes, keepdim=True) - normed * (scaled * normed).mean(axes, keepdim=True)
    return (found * inverse).to(inputs.dtype), None, None


gelu_: Callable[..., torch.Tensor] = optional("torch", "ops.aten.gelu_") or _gelu_
"""GELU in place; without torch's, through a second tensor."""

gelu_backward: Callable[..., torch.Tensor] = optional("torch", "ops.aten.gelu_backward.grad_input") or _gelu_backward
"""The gradient of GELU's input, written to `grad_input`; without torch's, through autograd and a second forward."""

layer_norm: Callable[..., tuple[torch.Tensor, ...]] = optional("torch", "native_layer_norm") or _layer_norm
"""A layer norm, its mean and the reciprocal of its deviation; without torch's, in several passes."""

layer_norm_backward: Callable[..., tuple[Any, ...]] = (
    optional("torch", "ops.aten.native_layer_norm_backward") or _layer_norm_backward
)
"""The gradient of a layer norm's input, first of three; without torch's, in several passes."""

_FLASH = "ops.aten._scaled_dot_product_flash_attention_for_cpu"
cpu_attention: Callable[..., tuple[torch.Tensor, ...]] | None = optional("torch", f"{_FLASH}.default")
cpu_attention_backward: Callable[..., tuple[torch.Tensor, ...]] | None = optional("torch", f"{_FLASH}_backward.default")
"""Attention on a CPU and its backward; where either is None, `kernels` takes scaled-dot-product attention instead."""


# torch: tensor subclasses and modules

make_wrapper_subclass: Callable[..., Any] = need(
    "torch", "torch", "Tensor._make_wrapper_subclass", purpose="show 8-bit weights as floats"
)
no_torch_function: Any = need(
    "torch", "torch", "_C._disabled_torch_function_impl", purpose="show 8-bit weights as floats"
)


def written_arguments(operator: Any, arguments: Iterable[Any], named: Mapping[str, Any]) -> list[Any]:
    """The arguments of a call of a torch operator that the operator writes to.

    Raises:
        UserError: operators no longer say so.
    """
    schema = getattr(operator, "_schema", None)
    if schema is None:
        raise UserError(gone("torch", "OpOverload._schema", "tell whether an 8-bit weight is written to"))
    declared = schema.arguments
    given = {**{argument.name: value for argument, value in zip(declared, arguments, strict=False)}, **named}
    written = [argument.name for argument in declared if argument.alias_info and argument.alias_info.is_write]
    return [given[name] for name in written if name in given]


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The parameters of `module` without its children's, to be read and changed."""
    return module._parameters


if not hasattr(nn.Module(), "_parameters"):
    raise UserError(gone("torch", "nn.Module._parameters", "put 8-bit weights in the place of floats"))


# bitsandbytes


def code_map(code: str) -> torch.Tensor:
    """Bitsandbytes' table of a code, "dynamic" or "linear": float32 (256,), ascending.

    Raises:
        UserError: it has none.
    """
    name = f"create_{code}_map"
    make = need("bitsandbytes", "bitsandbytes.functional", name, purpose="know what the 8-bit codes stand for")
    return cast(torch.Tensor, make())


def _quantize_blockwise(
    values: torch.Tensor, table: torch.Tensor, block_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    codes, state = import_module("bitsandbytes.functional").quantize_blockwise(values, code=table, blocksize=block_size)
    return codes, state.absmax


def _dequantize_blockwise(
    codes: torch.Tensor, absmax: torch.Tensor, table: torch.Tensor, block_size: int, dtype: torch.dtype
) -> torch.Tensor:
    dequantize = import_module("bitsandbytes.functional").dequantize_blockwise
    return cast(torch.Tensor, dequantize(codes, absmax=absmax, code=table, blocksize=block_size)).to(dtype)


import_module("bitsandbytes")  # which defines its operators
quantize_blockwise: Callable[..., tuple[torch.Tensor, torch.Tensor]] = (
    optional("torch", "ops.bitsandbytes.quantize_blockwise.default") or _quantize_blockwise
)
dequantize_blockwise: Callable[..., torch.Tensor] = (
    optional("torch", "ops.bitsandbytes.dequantize_blockwise.default") or _dequantize_blockwise
)
"""bitsandbytes' operators; without them, its functions on top of them, which de-quantise to float32 first."""


# transformers


def bloom_block(config: Any, index: int) -> nn.Module:
    """Layer `index` of a BLOOM, whose parts and their names `LeanBloomBlock` takes over.

    Raises:
        UserError: it is gone.
    """
    module = "transformers.models.bloom.modeling_bloom"
    block = need("transformers", module, "BloomBlock", purpose="build BLOOM's layers")
    return cast(nn.Module, block(config, layer_idx=index))


def commit_hash(config: Any, name: str, *, revision: str | None = None, cache_dir: str | None = None) -> str | None:
    """The revision on the hub that a configuration came from; None for a folder.

    transformers 5.17 writes it into the configuration, 5.23 no longer does: then it is that of the file in the cache.

    Args:
        config: as it was loaded.
        name: of the model on the hub.
        revision: that was asked for: a branch, a tag or a commit; None for the main branch.
        cache_dir: of the hub's files; None for the usual one.
    """
    if known := getattr(config, "_commit_hash", None):
        return cast(str, known)
    from huggingface_hub import try_to_load_from_cache

    repository, wanted = name, "config.json"
    if name.endswith(".gguf"):
        owner, repository, wanted = [*name.split("/", 2), "", ""][:3]
        repository = f"{owner}/{repository}"
    try:
        file = (
            None
            if Path(name).exists()
            else try_to_load_from_cache(repository, wanted, cache_dir=cache_dir, revision=revision)
        )
    except ValueError:  # no hub name
        return None
    return Path(file).parts[-1 - len(Path(wanted).parts)] if isinstance(file, str) else None


def name_or_path(config: Any) -> str | None:
    """Where a configuration came from; None if transformers does not say (any more)."""
    return cast("str | None", getattr(config, "_name_or_path", None))


def no_init_weights() -> AbstractContextManager[Any]:
    """Build models without initialising them; where that is gone they are initialised, for nothing."""
    return cast(
        AbstractContextManager[Any], (optional("transformers.initialization", "no_init_weights") or nullcontext)()
    )


def mark_loaded_(loaded: nn.Module | torch.Tensor) -> None:
    """Keep transformers from giving a module or a tensor random values: what a checkpoint lacks is to be an error."""
    cast(Any, loaded)._is_hf_initialized = True


def was_loaded(tensor: torch.Tensor) -> bool:
    """Whether transformers has filled `tensor` from a checkpoint."""
    return bool(getattr(tensor, "_is_hf_initialized", False))


def check_marks(model: nn.Module) -> None:
    """That transformers still marks what it has loaded, as `was_loaded` expects.

    Raises:
        UserError: not one tensor of a model that was loaded is marked.
    """
    if not any(was_loaded(tensor) for tensors in (model.parameters(), model.buffers()) for tensor in tensors):
        purpose = "tell a tensor that was loaded from one that is missing"
        raise UserError(gone("transformers", "mark (_is_hf_initialized) on loaded tensors", purpose))


def checkpointing_function(module: nn.Module) -> Callable[..., Any]:
    """What `gradient_checkpointing_enable` has put on `module` to recompute it; torch's own where there is nothing."""
    found = getattr(module, "_gradient_checkpointing_func", None)
    if found is not None:
        return cast(Callable[..., Any], found)
    from torch.utils.checkpoint import checkpoint

    return lambda function, *args: checkpoint(function, *args, use_reentrant=False)


# peft


def register_lora_layers(config: Any, layers: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    """Have peft put a class of ours around layers of a type; where that is gone its own stay: equal, with more memory.

    Args:
        config: a `LoraConfig`.
        layers: by the type of the layer that is wrapped.
    """
    register = getattr(config, "_register_custom_module", None)
    if register is None:
        logger.warning(
            "%s; peft's own layers are used, which keep more memory for the backward",
            gone("peft", "LoraConfig._register_custom_module", "use lean LoRA layers"),
        )
        return
    register(dict(layers))


# sentence-transformers


def register_modules(model_class: type, classes: Iterable[type]) -> None:
    """Let sentence-transformers load models of these module classes without `trust_remote_code=True`.

    Args:
        model_class: `BaseModel`, which looks there before it asks for that flag; what is registered already is kept.
        classes: importable by their module and name, as modules.json writes them.
    """
    known = getattr(model_class, "_module_classes", None)
    if known is None:
        logger.warning(
            "%s; until then load saved models with SentenceTransformer(..., trust_remote_code=True)",
            gone("sentence-transformers", f"{model_class.__name__}._module_classes", "register its modules"),
        )
        return
    ours = {f"{cls.__module__}.{cls.__name__}": cls for cls in classes}
    cast(Any, model_class)._module_classes = {**known, **ours}


def text_modality() -> tuple[dict[str, Any], str]:
    """`modality_config` and `module_output_name` of a module that embeds plain text, token by token."""
    defaults = optional("sentence_transformers.base.modules.transformer", "TRANSFORMER_TASK_DEFAULTS") or {}
    plain = ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}}, "token_embeddings")
    return cast("tuple[dict[str, Any], str]", defaults.get("feature-extraction", plain))


def infer_position_offset_(module: Any) -> None:
    """Find out, for `position_offset`, where a `Transformer`'s positions begin.

    Raises:
        UserError: sentence-transformers no longer says.
    """
    if not hasattr(module, "_infer_flatten_position_offset"):
        purpose = "know where the positions of a flat batch begin"
        raise UserError(gone("sentence-transformers", "Transformer._infer_flatten_position_offset", purpose))
    module._flatten_position_offset = module._infer_flatten_position_offset()


def position_offset(module: Any) -> int:
    """The position of a sentence's first token: 0, but in RoBERTa and its kin."""
    return int(getattr(module, "_flatten_position_offset", 0))


def gguf_tensors(architecture: str, config: Any, model: nn.Module) -> tuple[Any, Mapping[str, str]]:
    """What transformers does to an architecture's GGUF tensors (its processor), and `model`'s name of each of them."""
    purpose = "read GGUF files"
    names_of = need(
        "transformers", "transformers.modeling_gguf_pytorch_utils", "get_gguf_hf_weights_map", purpose=purpose
    )
    processors = need("transformers", "transformers.modeling_gguf_pytorch_utils", "TENSOR_PROCESSORS", purpose=purpose)
    plain = need("transformers", "transformers.modeling_gguf_pytorch_utils", "TensorProcessor", purpose=purpose)
    processor = processors.get(architecture, plain)(config=config.to_dict())
    causal = nn.Module()  # the gguf package knows some architectures' layers by their names in a causal LM alone
    causal.config, causal.model = config, model
    inner = {name: known.removeprefix("model.") for name, known in names_of(causal, processor).items()}
    return processor, inner | names_of(model, processor)


def forget_preparation_(model: nn.Module) -> None:
    """Take off accelerate's mark of a prepared model, with which its next training would be without autocast."""
    vars(model).pop("_is_accelerate_prepared", None)
