"""`Pooling`: the stock pooling, with float32 means on flat and padded batches and a zero vector for an empty text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from sentence_transformers.sentence_transformer.modules import Pooling as StockPooling

from lacos_st.folder import reading
from lacos_st.seal import add_to_seal, check_seal
from lacos_st.upstream import overrides


@overrides("_forward_flattened", package="sentence-transformers")
class Pooling(StockPooling):
    """Token embeddings to one sentence embedding.

    Args (positional, as the stock class has them):
        embedding_dimension: H, the width of the token embeddings.
        pooling_mode: "mean" (default), "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", or several.
        include_prompt: whether a prompt's tokens are pooled too.
    """

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """As the stock method; a saved model's folder that was changed is refused (see `check_seal`)."""
        if Path(model_name_or_path).is_dir():
            check_seal(Path(model_name_or_path), required=False)
        with reading(model_name_or_path):
            module = super().load(model_name_or_path, *args, **kwargs)
            if not module.pooling_output_dimension:  # the stock class takes an empty list of modes
                raise ValueError(f"pooling_mode {module.pooling_mode!r} names no way of pooling")
            return module

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """As the stock method; the file's hash is added to those of the model's folder."""
        super().save(output_path, *args, **kwargs)
        add_to_seal(Path(output_path), module=f"{type(self).__module__}.{type(self).__name__}")

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pool a batch.

        Args:
            features: `token_embeddings`, float (1, ΣT, H) with `cu_seq_lens_q` int32 (N + 1,), or (N, T, H) with
                `attention_mask` (N, T).
            **kwargs: ignored.

        Returns:
            `features` with `sentence_embedding` (N, H · number of modes) in the dtype of the token embeddings; sums
            are accumulated in float32; all zeros where a text has no token, and the maximum and the last token where it
            has none but the prompt's and these are left out.
        """
        features = super().forward(features, **kwargs)
        if not self.include_prompt and "prompt_length" in features:
            features["sentence_embedding"] = self._of_own_tokens(features)
        mask = features.get("attention_mask")
        if "cu_seq_lens_q" not in features and mask is not None:
            empty = (mask != 0).sum(1, keepdim=True) == 0
            features["sentence_embedding"] = features["sentence_embedding"].masked_fill(empty, 0.0)
        return features

    def _of_own_tokens(self, features: dict[str, Any]) -> torch.Tensor:
        """The sentence embeddings, zeros where a text has the prompt's tokens alone.

        For its maximum the stock code has -inf there, for its last token in a flat batch the prompt's.
        """
        prompt = int(torch.as_tensor(features["prompt_length"]).flatten()[0])
        bounds: torch.Tensor | None = features.get("cu_seq_lens_q")
        mask: torch.Tensor | None = features.get("attention_mask")
        embedded: torch.Tensor = features["sentence_embedding"]
        modes = [self.pooling_mode] if isinstance(self.pooling_mode, str) else list(self.pooling_mode)
        lengths = bounds.diff() if bounds is not None else None if mask is None else mask.ne(0).sum(1)
        chosen = torch.tensor([mode in ("max", "lasttoken") for mode in modes], device=embedded.device)
        if lengths is None or not chosen.any():
            return embedded
        parts = embedded.unflatten(-1, (len(modes), -1))
        return parts.masked_fill(((lengths <= prompt)[:, None] & chosen)[..., None], 0.0).flatten(-2)

    def _forward_flattened(
        self, token_embeddings: torch.Tensor, features: dict[str, torch.Tensor], prompt_length: int | None = None
    ) -> list[torch.Tensor]:
        lengths = features["cu_seq_lens_q"].diff()
        texts = lengths.nonzero().flatten()
        if len(texts) == len(lengths):
            return super()._forward_flattened(token_embeddings, features, prompt_length=prompt_length)
        modes = 1 if isinstance(self.pooling_mode, str) else len(self.pooling_mode)
        pooled = [token_embeddings.new_zeros(len(lengths), token_embeddings.shape[-1]) for _ in range(modes)]
        if len(texts):  # the stock code indexes the first or last token of every text: leave the empty ones out
            kept = torch.nn.functional.pad(lengths[texts].cumsum(0), (1, 0))
            found = super()._forward_flattened(token_embeddings, {"cu_seq_lens_q": kept}, prompt_length=prompt_length)
            pooled = [zeros.index_copy(0, texts, part) for zeros, part in zip(pooled, found, strict=True)]
        return pooled
