"""`CorpusEncoder`: a model with the options of a run, its identity, and the tokens of sentences before they are cut."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lacos_st.checkpoint import adapter_hash, base_hash
from lacos_st.corpus.options import EncodeOptions
from lacos_st.errors import UserError
from lacos_st.models import check_device, load_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class CorpusEncoder:
    """A model as a run uses it.

    Args:
        model: any sentence-transformers model of text.
        options: of the run.

    Raises:
        UserError: the model has no prompt of that name, or is narrower than `truncate_dim`.
    """

    def __init__(self, model: SentenceTransformer, options: EncodeOptions):
        self.model, self._options = model, options
        self.limit: int | None = getattr(model, "max_seq_length", None)
        self.prompt = _prompt(model, options)
        self._tokenizer = _counting(model)
        found = model.encode(["a"], show_progress_bar=False).shape[1]
        wanted = options.truncate_dim or found
        if wanted > found:
            raise UserError(
                f"truncate_dim is {wanted}, the model's embeddings have {found} dimensions: give at most that"
            )
        self.dimension = wanted

    @classmethod
    def load(cls, options: EncodeOptions) -> CorpusEncoder:
        """The model that the options name, on the first of their devices.

        Raises:
            UserError: it cannot be loaded, or a device cannot be used here.
        """
        for name in options.device:
            check_device(name)
        return cls(load_model(options.model, device=options.devices[0]), options)

    def encode(self, texts: Sequence[str], *, pool: Any = None) -> np.ndarray:
        """Embeddings, float32 (n, dimension).

        Args:
            texts: n sentences; sorting them into economical batches, and back, is sentence-transformers' part.
            pool: of `lacos_st.corpus.pool`; None to encode in this process.
        """
        embeddings = self.model.encode(
            list(texts),
            prompt=self.prompt,
            batch_size=self._options.batch_size,
            normalize_embeddings=self._options.normalize,
            truncate_dim=self._options.truncate_dim,
            show_progress_bar=False,
            pool=pool,
        )
        return np.asarray(embeddings, dtype=np.float32).reshape(len(texts), self.dimension)

    def count(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each sentence with its prompt, uncut, int64 (n,); zeros where the tokenizer cannot count."""
        if self._tokenizer is None:
            return np.zeros(len(texts), dtype=np.int64)
        start = self.prompt or ""
        found = self._tokenizer.encode_batch_fast([start + text for text in texts])
        return np.array([len(one.ids) for one in found], dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on: `model_identity`, the prompt and the width."""
        return {**model_identity(self.model), "prompt": self.prompt, "dimension": self.dimension}


def model_identity(model: SentenceTransformer) -> dict[str, Any]:
    """What a model is: weights and tokenizer by their hashes, modules and their options, dtype, limit of tokens."""
    tokenizer = getattr(model, "tokenizer", None)
    fast: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
    vocabulary = fast.to_str() if hasattr(fast, "to_str") else repr(tokenizer)
    configs = [
        {"module": f"{type(module).__module__}.{type(module).__qualname__}", **_config(module)}
        for module in model.children()
    ]
    return {
        "base_sha256": base_hash(model),
        "adapter_sha256": adapter_hash(model),
        "tokenizer_sha256": hashlib.sha256(_without_state(vocabulary).encode()).hexdigest(),
        "modules_sha256": hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode()).hexdigest(),
        "dtype": str(next((p.dtype for p in model.parameters()), "")).removeprefix("torch."),
        "max_seq_length": getattr(model, "max_seq_length", None),
    }


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


def _prompt(model: Any, options: EncodeOptions) -> str | None:
    name = options.prompt_name or (model.default_prompt_name if options.prompt is None else None)
    if name is None:
        return options.prompt
    if name not in model.prompts:
        known = ", ".join(model.prompts) or "none"
        raise UserError(f"prompt_name is {name!r}, the model's prompts are: {known}; give the text with prompt")
    return str(model.prompts[name])
