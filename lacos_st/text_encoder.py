"""`TextEncoder`: a model with how it is used, its identity, and the tokens of sentences before they are cut."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lacos_st.checkpoint import adapter_hash, base_hash
from lacos_st.errors import UserError
from lacos_st.models import check_device, load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class TextEncoder:
    """A model with how it is used: texts to float32 embeddings, and their tokens.

    Args:
        model: any sentence-transformers model of text.
        batch_size: sentences that it encodes at a time.
        normalize: embeddings of length 1.
        truncate_dim: the first dimensions only; None for all.
        prompt: text put before each sentence.
        prompt_name: the same, by its name in the model; where neither is given, the model's default one.

    Raises:
        UserError: the model has no prompt of that name, or is narrower than `truncate_dim`.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        batch_size: int = 32,
        normalize: bool = False,
        truncate_dim: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> None:
        self.model = model
        self.limit: int | None = getattr(model, "max_seq_length", None)
        self.prompt = _prompt(model, prompt, prompt_name)
        self._batch_size, self._normalize, self._truncate_dim = batch_size, normalize, truncate_dim
        self._tokenizer = _counting(model)
        first: Any = next(iter(model.children()), None)
        ours = "lora_rank" in getattr(first, "config_keys", ())  # others' tokenizers are not entered one at a time
        self._in_template = ours and "message" in first.modality_config
        found = model.encode(["a"], show_progress_bar=False).shape[1]
        wanted = truncate_dim or found
        if wanted > found:
            raise UserError(
                f"truncate_dim is {wanted}, the model's embeddings have {found} dimensions: give at most that"
            )
        self.dimension = wanted

    @classmethod
    def load(cls, name: str, *, device: str | None = None, **options: Any) -> TextEncoder:
        """The model of a folder or name, see `lacos_st.models.load_model`, with the options of the class.

        Raises:
            UserError: it cannot be loaded, or the device cannot be used here.
        """
        check_device(device)
        return cls(load_model(name, device=device), **options)

    def encode(self, texts: Sequence[str], *, pool: Any = None) -> np.ndarray:
        """Embeddings, float32 (n, dimension).

        Args:
            texts: n sentences; sorting them into economical batches, and back, is sentence-transformers' part.
            pool: a stock pool of processes; None to encode in this process.
        """
        embeddings = self.model.encode(
            list(texts),
            prompt=self.prompt,
            batch_size=self._batch_size,
            normalize_embeddings=self._normalize,
            truncate_dim=self._truncate_dim,
            show_progress_bar=False,
            pool=pool,
        )
        return np.asarray(embeddings, dtype=np.float32).reshape(len(texts), self.dimension)

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each sentence with its prompt, uncut, int64 (n,); zeros where the tokenizer cannot count."""
        if self._tokenizer is None:
            return np.zeros(len(texts), dtype=np.int64)
        if self._in_template:
            return self._count_with_template(texts)
        start = self.prompt or ""
        found = self._tokenizer.encode_batch_fast([start + text for text in texts])
        return np.array([len(one.ids) for one in found], dtype=np.int64)

    def _count_with_template(self, texts: Sequence[str]) -> np.ndarray:
        """As `count`, where a chat template goes around each sentence, and the prompt has a place of its own in it."""
        uncut = {"text": {"truncation": False}}
        read = self.model.preprocess(list(texts), prompt=self.prompt, processing_kwargs=uncut)
        bounds = read.get("cu_seq_lens_q")
        lengths = read["attention_mask"].sum(1) if bounds is None else bounds.diff()
        return np.asarray(lengths.cpu(), dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on: `model_identity`, the prompt and the width."""
        return {**model_identity(self.model), "prompt": self.prompt, "dimension": self.dimension}


OF_THE_WHOLE = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
"""What is no module's but the whole model's."""


def model_identity(model: SentenceTransformer) -> dict[str, Any]:
    """What a model is: weights and tokenizer by their hashes, modules and their options, dtype, limit of tokens."""
    configs = [
        {"module": f"{type(module).__module__}.{type(module).__qualname__}", **_config(module)}
        for module in model.children()
    ]
    return {
        "base_sha256": base_hash(model),
        "adapter_sha256": adapter_hash(model),
        "tokenizer_sha256": tokenizer_hash(getattr(model, "tokenizer", None)),
        "modules_sha256": hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode()).hexdigest(),
        "dtype": str(next((p.dtype for p in model.parameters()), "")).removeprefix("torch."),
        "max_seq_length": getattr(model, "max_seq_length", None),
        "truncation_side": getattr(getattr(model, "tokenizer", None), "truncation_side", None),
    }


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of how a tokenizer splits a text; where it cuts a long one is not in it."""
    fast: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    vocabulary = fast.to_str() if hasattr(fast, "to_str") else repr(tokenizer)
    return hashlib.sha256(_without_state(vocabulary).encode()).hexdigest()


def _config(module: Any) -> dict[str, Any]:
    return dict(module.get_config_dict()) if hasattr(module, "get_config_dict") else {}


def _without_state(vocabulary: str) -> str:
    """A tokenizer's JSON without how the last call had it cut and pad."""
    try:
        values = json.loads(vocabulary)
    except ValueError:
        return vocabulary
    return json.dumps({key: value for key, value in values.items() if key not in ("truncation", "padding")})


def _counting(model: Any) -> Any:
    """A tokenizer of our own that does not cut: the model's is set anew by each call, perhaps in another thread."""
    tokenizer = getattr(model, "tokenizer", None)
    fast: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(fast, "encode_batch_fast"):
        return None
    counting = copy.deepcopy(fast)
    counting.no_truncation()
    counting.no_padding()
    return counting


def _prompt(model: Any, prompt: str | None, prompt_name: str | None) -> str | None:
    if prompt is not None and prompt_name is not None:
        raise UserError("prompt and prompt_name both name a prompt: give one of them")
    name = prompt_name or (model.default_prompt_name if prompt is None else None)
    if name is None:
        return prompt
    if name not in model.prompts:
        known = ", ".join(model.prompts) or "none"
        raise UserError(f"prompt_name is {name!r}, the model's prompts are: {known}; give the text with prompt")
    return str(model.prompts[name])
