"""`LoRA8bit` and `BloomLoRA8bit`: the sentence-transformers module with 8-bit storage, LoRA and flat batches.

`modules.json` names these classes by their three-part path, so this file's name is part of the saved format; it
imports the quantiser's registration, without which an 8-bit checkpoint would load random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self, cast

import torch
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.util import load_dir_path, load_file_path
from transformers import PreTrainedConfig, PreTrainedModel

from lacos_st import adapters, checkpoint, gguf
from lacos_st.adapters import ADAPTER_FOLDER
from lacos_st.blockwise import BLOCK_SIZE
from lacos_st.both_ways import attend_both_ways_, check_way
from lacos_st.columns import COLUMN, Column
from lacos_st.echo import doubled
from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.flat import FlatCollator, attended, flat_features, restored
from lacos_st.folder import check_adapter, check_folder, in_subfolder, reading, without_remote_code
from lacos_st.isolation import check_isolation
from lacos_st.lengths import cap_length_, check_length
from lacos_st.linear import keep_embedding_on_host_
from lacos_st.loading import check_changes, chosen_dtype, hub_part, load_base, read_config, read_named_base
from lacos_st.probes import base_dtype_name, check_base_hash, check_options, embed_probes
from lacos_st.quantizer import Blockwise8bitConfig
from lacos_st.savable import shapes
from lacos_st.saving import write_module
from lacos_st.steadfast import keep_base
from lacos_st.streams import check_sentences
from lacos_st.turns import one_at_a_time
from lacos_st.unfinished import check_finished
from lacos_st.upstream import infer_position_offset_, overrides, position_offset, text_modality

FLAT_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx", "ragged_layout")


@overrides("_load_config", "_load_model", "_can_flatten_inputs", package="sentence-transformers")
class LoRA8bit(Transformer):
    """Any decoder or encoder behind transformers' attention interface: base in 8-bit blocks, LoRA, no padding.

    Args:
        model_name_or_path: a hub name, a folder, an embedded base ("bloom-nano"), a folder that this class saved, or a
            GGUF file: its path, its folder, `owner/name/file.gguf`, or `model_kwargs={"gguf_file": ...}` beside a name.
        lora_rank: r; 0 for no adapter.
        lora_alpha: the adapter's product is scaled by alpha / r; None for alpha = r.
        lora_dropout: probability of dropping an adapter's input.
        lora_targets: "paper" (feed-forward layers and token embedding), "all-linear", or names of layers.
        adapter_dtype: of the adapter's weights: "float32" or "bfloat16".
        block_size: values that share an absmax.
        code: "dynamic" or "linear" storage; None for no quantisation. A base that is already stored in 8 bits keeps
            its own block size and code, unless None de-quantises it.
        skip: names of layers that stay float.
        self_contained: whether `save` writes the base's weights too. Without, it writes the adapter (megabytes) and
            names the base by name, revision and hash. Weights that are not frozen are always written.
        chat_template: whether sentences are wrapped in the tokenizer's chat template, as sentence-transformers does by
            default where there is one; without, they are embedded as plain text. A saved model keeps what it had.
        embedding_device: "cpu" keeps the 8-bit token embedding (1 GiB for bloom-7b1) in host memory wherever the model
            goes: only the rows of a batch travel. Its LoRA goes with the model. None: with the model.
        attention: "causal", as decoders were trained, or "bidirectional": each token sees all of its text. An encoder
            is bidirectional as it is.
        echo: each text is read twice, and the tokens of the second reading are pooled (`lacos_st.echo`).
            The longest text has half the base's positions.
        **kwargs: sentence-transformers' `Transformer` options: `max_seq_length`, `model_kwargs`
            (`{"dtype": "bfloat16"}`; `{"base": folder}` where the base of a saved adapter has moved),
            `processor_kwargs`, ...

    Raises:
        UserError: what is given cannot be used, or a saved model is not what it was when it was saved.
    """

    config_keys: list[str] = [
        *Transformer.config_keys,
        *("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "adapter_dtype", "block_size", "code", "skip"),
        *("self_contained", "embedding_device", "attention", "echo"),
    ]

    def __init__(
        self,
        model_name_or_path: str,
        *,
        lora_rank: int = 4,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: str | Sequence[str] = "paper",
        adapter_dtype: str = "float32",
        block_size: int = BLOCK_SIZE,
        code: str | None = "dynamic",
        skip: Sequence[str] = (),
        self_contained: bool = False,
        embedding_device: str | None = None,
        chat_template: bool = False,
        attention: str = "causal",
        echo: bool = False,
        **kwargs: Any,
    ) -> None:
        model_kwargs = dict(kwargs.pop("model_kwargs", None) or {})
        model_name_or_path = gguf.join(model_name_or_path, model_kwargs.pop("gguf_file", None))
        path = resolve(model_name_or_path)
        self._init_options: dict[str, Any] = {
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "lora_targets": lora_targets if isinstance(lora_targets, str) else list(lora_targets),
            "adapter_dtype": adapter_dtype,
            "block_size": block_size,
            "code": code,
            "skip": list(skip),
            "self_contained": self_contained,
            "embedding_device": embedding_device,
            "attention": attention,
            "echo": echo,
        }
        for name, value in self._init_options.items():
            setattr(self, name, value)
        self.hub = checkpoint.hub_options(model_kwargs)
        self._manifest = self._find_manifest(path)
        self.origin = self._manifest.base if self._manifest else checkpoint.lasting_name(model_name_or_path)
        moved_base = model_kwargs.pop("base", None)
        self.base_name = checkpoint.lasting_name(model_name_or_path)
        if self._by_reference():
            self.base_name = checkpoint.lasting_name(moved_base) if moved_base else self.origin
        self._base_path = resolve(self.base_name) if self._by_reference() else path
        if "modality_config" not in kwargs and not chat_template:
            kwargs["modality_config"], kwargs["module_output_name"] = text_modality()
        with reading(path) if self._manifest else nullcontext():
            self._fill(path, model_kwargs=model_kwargs, **without_remote_code(kwargs))

    def _fill(self, path: str, **kwargs: Any) -> None:
        """Read base and adapter, and compare them with what was saved."""
        check_options(self._init_options, self._manifest)
        check_way(self.attention)
        hub = hub_part(kwargs["model_kwargs"])
        super().__init__(gguf.tokenizer_folder(path, **hub) if gguf.is_gguf(path) else path, **kwargs)
        self.register_load_state_dict_pre_hook(keep_base)
        if self.tokenizer is not None and self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token  # for callers who pad; flat batches do not
        cap_length_(self, kwargs.get("max_seq_length"), position_offset=position_offset(self))
        if self.attention == "bidirectional":
            attend_both_ways_(self.model)
        if self.embedding_device is not None:
            keep_embedding_on_host_(self.model, device=self.embedding_device)
        if self.lora_rank:
            if self._manifest and self._manifest.lora and Path(path).is_dir():
                check_adapter(Path(path) / ADAPTER_FOLDER, self._manifest.lora)
            adapters.add_lora_(
                self.model,
                rank=self.lora_rank,
                alpha=self.lora_alpha,
                dropout=self.lora_dropout,
                targets=self.lora_targets,
                dtype=getattr(torch, self.adapter_dtype),
            )
        elif adapters.is_quantized(self.model):
            self.model.requires_grad_(False)
        if self._manifest:
            self._check_loaded(path)
        if self.config.model_type != "bloom":
            check_isolation(
                self.model, lambda flat: self._read(flat)[self.module_output_name], limit=self.max_seq_length
            )

    lora_rank: int
    lora_alpha: float | None
    lora_dropout: float
    lora_targets: str | list[str]
    adapter_dtype: str
    block_size: int
    code: str | None
    skip: list[str]
    self_contained: bool
    embedding_device: str | None
    attention: str
    echo: bool
    query_expansion = attended(Transformer.query_expansion)
    parameters = adapters.base_first(Transformer.parameters)
    preprocess = one_at_a_time(Transformer.preprocess)  # a tokenizer is not safe in threads

    # Loading

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", *args: Any, **kwargs: Any) -> Self:
        """Load what `save` wrote; called by sentence-transformers. No code in the folder is run, by any flag.

        Args:
            model_name_or_path: of the whole model.
            subfolder: of this module in it, where another holds it: sentence-transformers' Router does.
            *args: as the stock method has them.
            **kwargs: likewise.

        Raises:
            UserError: something of it is missing, broken, unsafe or not what was saved.
        """
        path = in_subfolder(model_name_or_path, subfolder)
        check_folder(Path(path))
        check_finished(path)
        with reading(path):
            return super().load(path, "", *args, **{**kwargs, "trust_remote_code": False})

    @classmethod
    def load_config(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The options in sentence_bert_config.json, none of them but ours and sentence-transformers'."""
        config = super().load_config(model_name_or_path, *args, **kwargs)
        if unknown := sorted(config.keys() - {*cls.config_keys, "max_seq_length", "do_lower_case"}):
            raise UserError(f"sentence_bert_config.json holds unknown options ({', '.join(unknown)}): restore it")
        return config

    def _find_manifest(self, path: str) -> checkpoint.Manifest | None:
        check_folder(Path(path))
        return checkpoint.find_manifest(path, self.hub)

    def _by_reference(self) -> bool:
        return self._manifest is not None and not self._manifest.self_contained

    @property
    def base_revision(self) -> str | None:
        """Which revision of the base was asked for; None: whichever the hub calls main, or a base that has none."""
        return self._manifest.revision if self._manifest and self._by_reference() else self.hub["revision"]

    def _load_config(
        self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]
    ) -> tuple[PreTrainedConfig, bool]:
        if backend != "torch":
            raise UserError(f"backend={backend!r}: 8-bit blocks need torch; export the model to use another backend")
        hub = hub_part(config_kwargs)
        is_gguf = gguf.is_gguf(self._base_path) and not self._by_reference()  # then a tokenizer's folder is given
        frozen = bool(self.lora_rank or self.code) and not self.self_contained
        check_changes(config_kwargs, base=self._base_path, kept=not (frozen or is_gguf or self._by_reference()))
        self._check_base(config := read_config(self._base_path if is_gguf else model_name_or_path, **hub))
        return (config, False) if is_gguf else super()._load_config(model_name_or_path, backend, config_kwargs)

    def _check_base(self, config: PreTrainedConfig) -> None:
        """Hook for a subclass that takes one architecture only; `config` is the base's."""

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: str,
        config: PreTrainedConfig,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> PreTrainedModel:
        dtype = chosen_dtype(model_kwargs.pop("dtype", model_kwargs.pop("torch_dtype", None)))
        if self._by_reference():
            assert self._manifest is not None
            model_kwargs.update(revision=self._manifest.revision, subfolder="")
            config = read_named_base(self._base_path, **hub_part(model_kwargs))
            config.use_cache = False
        if config.model_type == "bloom":
            config.alibi = getattr(self, "alibi", "exact")
        wanted = self.code and Blockwise8bitConfig(block_size=self.block_size, code=self.code, skip=self.skip)
        base = load_base(self._base_path, config, quantization=wanted or None, dtype=dtype, **model_kwargs)
        self.base_sha256, self.tensors_as_read = base.sha256, base.tensors_sha256
        self.shapes_as_read, self.stored_as_read = shapes(base.model), adapters.is_quantized(base.model)
        if (stored := base.quantization) is not None:
            self.block_size, self.code, self.skip = stored.block_size, stored.code, stored.skip
        return base.model

    def _check_loaded(self, path: str) -> None:
        """Hash of the base, adapter weights and probe sentences against what was saved."""
        manifest = cast(checkpoint.Manifest, self._manifest)
        check_base_hash(self.base_sha256, manifest, self._base_path)
        if self.lora_rank and manifest.lora:  # a base that was saved without an adapter gets a fresh one
            folder = load_dir_path(path, ADAPTER_FOLDER, **self.hub)
            adapters.load_adapter_(self.model, Path(folder or Path(path) / ADAPTER_FOLDER))
        probes = load_file_path(path, checkpoint.PROBES_FILE, **self.hub)
        saved = Path(probes or Path(path) / checkpoint.PROBES_FILE)
        checkpoint.check_probes(embed_probes(self), saved, manifest, dtype=base_dtype_name(self.model))
        if self.lora_rank and manifest.lora:  # after the probes, which say more of what is wrong with much of it
            checkpoint.check_adapter_hash(self.model, manifest, Path(path) / ADAPTER_FOLDER)

    def restore_adapter(self, folder: str | Path) -> None:
        """Copy the adapter saved in `folder` (by `save`) into this module; the base is not touched.

        Raises:
            UserError: it is missing, broken, does not fit, is of another scale or base, or is not what was saved there.
        """
        manifest = self._find_manifest(str(folder))
        if manifest:
            check_options(self._init_options, manifest)
            as_read = manifest.base_sha256 == self.base_sha256 or not manifest.self_contained
            # a self-contained folder names its base as it was in memory, any other as it was read: before a cast
            known = self.base_sha256 if as_read else checkpoint.base_hash(self.model)
            check_base_hash(known, manifest, self._base_path)
        adapters.load_adapter_(self.model, Path(folder) / ADAPTER_FOLDER)
        if manifest:
            checkpoint.check_adapter_hash(self.model, manifest, Path(folder) / ADAPTER_FOLDER)

    def _can_flatten_inputs(self) -> bool:
        methods = {params["method"] for params in self.modality_config.values()}
        if methods != {"forward"} or "text" not in self.modality_config or self.backend != "torch":
            return False
        self.data_collator = FlatCollator()
        if self.model_forward_params is not None:
            self.model_forward_params |= set(FLAT_KEYS)
        infer_position_offset_(self)
        return True

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Embed the tokens of a batch.

        Args:
            features: `input_ids` int64 (1, ΣT) with `cu_seq_lens_q` int32 (N + 1,), or (N, T) with `attention_mask`.
            **kwargs: forwarded to the model.

        Returns:
            `features` with `token_embeddings`, (1, ΣT, H) or (N, T, H) with zeros at padding.

        Raises:
            UserError: training mode, and an 8-bit base without adapters or with trainable weights of its own; a text
                longer than the base can read (`lacos_st.lengths`); tokens without sentences (`lacos_st.streams`).
        """
        if self.training and torch.is_grad_enabled():
            adapters.check_frozen(self.model)
        column: Column | None = features.pop(COLUMN, None)
        if column is not None:
            embedded = column.token_embeddings(self, lambda tied: self._embed(tied, **kwargs)[self.module_output_name])
            features[self.module_output_name] = embedded
            return features
        return self._embed(features, **kwargs)

    def _embed(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        check_sentences(features)
        if not self.echo:
            return self._read(features, **kwargs)
        twice, second, place = doubled(features)
        embedded = self._read(twice, **kwargs)[self.module_output_name][0, second]
        features[self.module_output_name] = restored(embedded, place, *features["input_ids"].shape)
        return features

    def _read(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        if self.config.model_type == "bloom":  # also where peft or torch.compile wrap it
            return super().forward(features, **kwargs)
        offset = position_offset(self)
        flat, source, layout = flat_features(features, position_offset=offset)
        check_length(self.config, layout.max_length, echo=self.echo, position_offset=offset)
        rows, columns = features["input_ids"].shape
        if layout.max_length:
            embedded = super().forward(flat, ragged_layout=layout, **kwargs)[self.module_output_name][0]
        else:
            embedded = torch.zeros(0, self.get_embedding_dimension(), dtype=self.model.dtype, device=source.device)
        features[self.module_output_name] = restored(embedded, source, rows, columns)
        return features

    # Saving

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config, tokenizer, adapter, manifest and probes, and the base where `self_contained` or not frozen.

        Args:
            output_path: the model's folder.
            *args: ignored.
            safe_serialization: must be True: weights are written as safetensors only.
            **kwargs: ignored.

        Raises:
            UserError: another format is asked for, or the model embeds a probe sentence as inf or nan; nothing has been
                written then.
        """
        if not safe_serialization:
            raise UserError("safe_serialization=False: weights are saved as safetensors only")
        write_module(self, Path(output_path))


class BloomLoRA8bit(LoRA8bit):
    """BLOOM with its lean forward; `LoRA8bit`'s options and one more.

    Args:
        model_name_or_path: as in `LoRA8bit`, a BLOOM.
        alibi: "exact" (default) or "reference", see `lacos_st.bloom.BloomEncoder`.
        **kwargs: as in `LoRA8bit`.

    Raises:
        UserError: the base is no BLOOM, `alibi` is unknown, or as `LoRA8bit`.
    """

    config_keys: list[str] = [*LoRA8bit.config_keys, "alibi"]

    def __init__(self, model_name_or_path: str, *, alibi: str = "exact", **kwargs: Any) -> None:
        if alibi not in ("exact", "reference"):
            raise UserError(f'alibi={alibi!r} is unknown: choose "exact" or "reference"')
        self.alibi = alibi
        super().__init__(model_name_or_path, **kwargs)
        if self.tokenizer is not None and self.tokenizer.model_max_length > 1e6:
            trained = getattr(self.config, "seq_length", None) or 2048  # tokens of BLOOM's own training texts
            self.tokenizer.model_max_length = trained // (1 + self.echo)

    def _check_base(self, config: PreTrainedConfig) -> None:
        if config.model_type != "bloom":
            raise UserError(f"BloomLoRA8bit takes a BLOOM, got {config.model_type!r}: use lacos_st.LoRA8bit for it")
