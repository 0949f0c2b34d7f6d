"""`Linear8bit` and `Embedding8bit`: torch's layers on weights stored in 8-bit blocks; `quantize_` and `dequantize_`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from torch import nn

from lacos_st.blockwise import BLOCK_SIZE, BlockwiseError, check_block, dequantize, quantization_error, quantize
from lacos_st.errors import UserError
from lacos_st.stored import Stored8bit

SLAB_BYTES = 16 * 2**20
"""How much of a weight is de-quantised at a time on a CPU: the product is as fast as with the whole of it, and the
memory comes from what was freed before, which glibc does for blocks below 32 MiB only (2026-11-21, two cores)."""

CACHED_SLAB_BYTES = 2 * 2**20
FEW_TOKENS = 64
"""With few tokens the product only reads the weight: from a second-level cache, if the slab is that small."""


class _FrozenLinear(torch.autograd.Function):
    """x · Wᵀ + b with W de-quantised in the forward and again in the backward: nothing is saved but the codes."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, layer: Linear8bit, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(layer.codes, layer.absmax)  # so that a change in between is noticed
        return layer.product(inputs.flatten(0, -2), bias).unflatten(0, inputs.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat = grads[0].flatten(0, -2)
        grad_inputs = grad_bias = None
        if ctx.needs_input_grad[0]:
            assert ctx.saved_tensors[0] is ctx.layer.codes, "the layer's codes were replaced before the backward"
            grad_inputs = ctx.layer.product_backward(flat).unflatten(0, grads[0].shape[:-1])
        if ctx.needs_input_grad[2]:
            grad_bias = flat.sum(0)
        return grad_inputs, None, grad_bias


class Linear8bit(Stored8bit, nn.Linear):  # type: ignore[override]  # weight is read-only here
    """A frozen `nn.Linear` whose weight is stored in 8-bit blocks; the bias stays a float parameter."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input: (..., in_features) in any float dtype; returns (..., out_features) in the dtype of the product."""
        bias = self.bias
        if torch.is_autocast_enabled(input.device.type):
            input = input.to(torch.get_autocast_dtype(input.device.type))
        if bias is not None and bias.dtype != input.dtype:
            bias = bias.to(input.dtype)  # type: ignore[assignment]
        if input.dim() == 1:
            return _FrozenLinear.apply(input[None], self, bias)[0]
        return _FrozenLinear.apply(input, self, bias)

    def product(self, inputs: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """inputs: (T, in_features); bias: (out_features,). Returns (T, out_features), without autograd."""
        result = inputs.new_empty(inputs.shape[0], self.out_features)
        for rows in self._slabs(inputs):
            weight = self.dequantized(inputs.dtype, rows).t()
            if bias is None:
                torch.mm(inputs, weight, out=result[:, rows])
            else:
                torch.addmm(bias[rows], inputs, weight, out=result[:, rows])
        return result

    def product_backward(self, grad: torch.Tensor) -> torch.Tensor:
        """grad: of the product, (T, out_features). Returns that of the inputs, (T, in_features)."""
        result: torch.Tensor | None = None
        for rows in self._slabs(grad):
            weight = self.dequantized(grad.dtype, rows)
            result = torch.mm(grad[:, rows], weight) if result is None else result.addmm_(grad[:, rows], weight)
        assert result is not None
        return result

    def _slabs(self, tokens: torch.Tensor) -> Iterator[slice]:
        """Rows of the weight to de-quantise at a time: all of them on a GPU."""
        rows = self.out_features
        if tokens.device.type == "cpu":
            slab_bytes = CACHED_SLAB_BYTES if tokens.shape[0] <= FEW_TOKENS else SLAB_BYTES
            rows = max(1, slab_bytes // (self.in_features * tokens.element_size()))
        return (slice(start, min(start + rows, self.out_features)) for start in range(0, self.out_features, rows))

    def extra_repr(self) -> str:
        """Shape and storage."""
        return f"{super().extra_repr()}, block_size={self.block_size}, code={self.code}"


class Embedding8bit(Stored8bit, nn.Embedding):  # type: ignore[override]  # weight is read-only here
    """A frozen `nn.Embedding` whose table is stored in 8-bit blocks: only the rows looked up are de-quantised.

    Gemma multiplies what it looks up by a constant: `scaled` is the class that does, `scalar_embed_scale` the constant.
    """

    scaled: type[nn.Embedding] | None = None
    scalar_embed_scale: float = 1.0

    @property
    def embed_scale(self) -> torch.Tensor | None:
        """The constant as peft looks for it, by which a LoRA's part is multiplied too; None where there is none."""
        return None if self.scaled is None else torch.tensor(self.scalar_embed_scale).to(self.compute_dtype_like)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """input: int (...); returns (..., embedding_dim)."""
        rows = input.flatten()
        values = dequantize(
            _rows(self.codes, rows),
            _rows(self.absmax, rows),
            block_size=self.block_size,
            code=self.code,
            dtype=self.compute_dtype_like.dtype,
        )
        if (scale := self.embed_scale) is not None:
            values *= scale
        return values.unflatten(0, input.shape) if input.ndim != 1 else values

    def extra_repr(self) -> str:
        """Shape and storage."""
        return f"{super().extra_repr()}, block_size={self.block_size}, code={self.code}"


def _rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """table[rows] on the device of `rows`; from host memory to a GPU through a pinned copy of these rows alone."""
    if table.device == rows.device:
        return table[rows]
    shape = (rows.shape[0], table.shape[1])
    picked = torch.empty(shape, dtype=table.dtype, pin_memory=rows.device.type == "cuda")
    torch.index_select(table, 0, rows.to(table.device), out=picked)
    return picked.to(rows.device, non_blocking=True)


def keep_embedding_on_host_(module: nn.Module, *, device: str = "cpu") -> None:
    """Leave the 8-bit token embedding in host memory when `module` moves: only the rows looked up travel.

    Args:
        module: with `get_input_embeddings`, as transformers' models have it; without adapters.
        device: "cpu", the only choice.

    Raises:
        UserError: another device, or the embedding is not stored in 8 bits.
    """
    if device != "cpu":
        raise UserError(f'embedding_device={device!r}: expected "cpu", or None for the device of the model')
    embedding = cast(Any, module).get_input_embeddings()
    if not isinstance(embedding, Embedding8bit):
        raise UserError(
            f"embedding_device={device!r} is for a token embedding stored in 8 bits, this one is a "
            f'{type(embedding).__name__}: choose code="dynamic" and do not skip it, or leave embedding_device out'
        )
    embedding.codes, embedding.absmax = embedding.codes.cpu(), embedding.absmax.cpu()
    embedding.on_host = True


def storable_layers(module: nn.Module, *, skip: Collection[str] = ()) -> Iterator[tuple[str, nn.Linear | nn.Embedding]]:
    """The layers that 8-bit storage is for: every `nn.Linear` but an adapter's, and the token embedding.

    The token embedding is `module.get_input_embeddings()`; a module without that method gives all its embeddings.

    Args:
        module: searched with its children.
        skip: names, or ends of names ("lm_head", "h.0.mlp.dense_4h_to_h"), of layers to leave out.
    """
    get_embedding = getattr(module, "get_input_embeddings", None)
    embedding = get_embedding() if get_embedding is not None else None
    embedding = getattr(embedding, "base_layer", embedding)  # below an adapter
    for name, layer in module.named_modules():
        wanted = type(layer) is nn.Linear or (
            (type(layer) is nn.Embedding or _is_scaled(layer)) and (get_embedding is None or layer is embedding)
        )
        if wanted and ".lora_" not in name and not any(name == end or name.endswith("." + end) for end in skip):
            yield name, layer


def _is_scaled(layer: nn.Module) -> bool:
    """Whether an embedding is Gemma's: a plain one, and a constant that its result is multiplied by."""
    named = isinstance(layer, nn.Embedding) and type(layer).__name__.endswith("ScaledWordEmbedding")
    return named and hasattr(layer, "scalar_embed_scale")  # BioGPT's and BART's keep theirs elsewhere: left float


def empty_8bit(layer: nn.Linear | nn.Embedding, *, block_size: int, code: str, name: str) -> Linear8bit | Embedding8bit:
    """An 8-bit layer in the place of a float one, its codes and absmax not filled in yet.

    Args:
        layer: gives shape, bias, device and dtype.
        block_size: values that share an absmax.
        code: "dynamic" or "linear".
        name: for error messages.

    Raises:
        ValueError: a width that the block does not divide; an embedding with max_norm, which rewrites its weights.
    """
    rows, columns = layer.weight.shape
    check_block(columns, block_size, name=name)
    device, dtype = layer.weight.device, layer.weight.dtype
    stored: Linear8bit | Embedding8bit
    if isinstance(layer, nn.Linear):
        stored = Linear8bit(columns, rows, bias=False, device="meta", dtype=dtype)
        stored.bias = layer.bias
    else:
        if layer.max_norm is not None:
            raise ValueError(f"{name} renormalises its rows (max_norm): leave this layer out with skip=...")
        stored = Embedding8bit(rows, columns, padding_idx=layer.padding_idx, device="meta", dtype=dtype)
        if _is_scaled(layer):
            stored.scaled, stored.scalar_embed_scale = type(layer), float(cast(Any, layer).scalar_embed_scale)
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=device)
    absmax = torch.empty(rows, columns // block_size, dtype=torch.float32, device=device)
    stored.store(codes, absmax, block_size=block_size, code=code)
    stored.train(layer.training)
    return stored


def replace_layer_(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` at the dotted `name` below `module`."""
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def quantize_(
    module: nn.Module, *, block_size: int = BLOCK_SIZE, code: str = "dynamic", skip: Collection[str] = ()
) -> None:
    """Store the weights of `storable_layers` in 8-bit blocks, in place, layer by layer.

    Args:
        module: whose layers are replaced; layer norms and biases stay float.
        block_size: values that share an absmax.
        code: "dynamic" or "linear".
        skip: names, or ends of names, of layers to leave as they are.

    Raises:
        ValueError: a width that the block does not divide, or inf or nan in a weight; no layer has been changed then
            if the width is the reason. Or `module` is itself such a layer, which cannot be replaced in place.
    """
    if isinstance(module, nn.Linear | nn.Embedding) and not isinstance(module, Stored8bit):
        raise ValueError(
            f"a {type(module).__name__} cannot be replaced in itself: wrap it, quantize_(nn.Sequential(layer))"
        )
    layers = list(storable_layers(module, skip=skip))
    _check_blocks(layers, block_size)
    for name, layer in layers:
        codes, absmax = quantize(layer.weight.detach(), block_size=block_size, code=code, name=name)
        stored = empty_8bit(layer, block_size=block_size, code=code, name=name)
        stored.codes, stored.absmax = codes, absmax
        replace_layer_(module, name, stored)


def _check_blocks(layers: Collection[tuple[str, nn.Linear | nn.Embedding]], block_size: int) -> None:
    widths = [layer.weight.shape[1] for _, layer in layers]
    for (name, _), columns in zip(layers, widths, strict=True):
        check_block(columns, block_size, name=name, widths=widths)


def dequantize_(module: nn.Module, *, dtype: torch.dtype | None = None) -> None:
    """Undo `quantize_`: stored layers become plain float layers again, for those who prefer speed to memory.

    Args:
        module: whose 8-bit layers are replaced; the values are those that the codes stand for.
        dtype: of the weights; None keeps the one that the layers compute in.
    """
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, Linear8bit | Embedding8bit):
            continue
        values = layer.dequantized().to(layer.compute_dtype_like.device, dtype or layer.compute_dtype_like.dtype)
        weight = nn.Parameter(values, requires_grad=False)
        plain: nn.Linear | nn.Embedding
        if isinstance(layer, Linear8bit):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.bias = layer.bias
        else:
            sizes = (layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
            with torch.device("meta"):
                plain = nn.Embedding(*sizes) if layer.scaled is None else _scaled(layer.scaled, *sizes)
            if layer.scaled is not None:
                cast(Any, plain).scalar_embed_scale = layer.scalar_embed_scale
                cast(Any, plain).embed_scale = torch.tensor(layer.scalar_embed_scale, device=values.device)
        plain.weight = weight
        plain.train(layer.training)
        replace_layer_(module, name, plain)


def _scaled(kind: Any, *sizes: int | None) -> nn.Embedding:
    return cast(nn.Embedding, kind(*sizes))


def error_report(
    module: nn.Module, *, block_size: int = BLOCK_SIZE, code: str = "dynamic", skip: Collection[str] = ()
) -> dict[str, BlockwiseError]:
    """What `quantize_` would lose in each layer of a float module, by layer name; it raises as that does."""
    layers = list(storable_layers(module, skip=skip))
    _check_blocks(layers, block_size)
    return {
        name: quantization_error(layer.weight.detach(), block_size=block_size, code=code, name=name)
        for name, layer in layers
    }


def codes_hash(module: nn.Module) -> str:
    """SHA-256 (hex) over the names, codes and absmax of all 8-bit layers below `module`, LoRA's wrapping left out."""
    digest = hashlib.sha256()
    for name, layer in sorted(module.named_modules()):
        if isinstance(layer, Stored8bit):
            digest.update(name.removesuffix(".base_layer").encode())
            for tensor in (layer.codes, layer.absmax):
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
