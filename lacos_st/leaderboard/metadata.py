"""`model_meta`: what mteb's `ModelMeta` asks of a model, filled in as far as the model itself says it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacos_st.checkpoint import MANIFEST_FILE, Manifest
from lacos_st.embedded import EMBEDDED
from lacos_st.errors import UserError
from lacos_st.models import load_model
from lacos_st.sts import import_mteb
from lacos_st.text_encoder import OF_THE_WHOLE, model_identity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

LOCAL = "local"
"""The organisation in the name of a model that is no repository of the hub: mteb's names have the form owner/name."""

LANGUAGES: dict[str, str] = dict(
    entry.split("=")
    for entry in (
        "ar=ara-Arab bg=bul-Cyrl cs=ces-Latn de=deu-Latn el=ell-Grek en=eng-Latn es=spa-Latn eu=eus-Latn fr=fra-Latn "
        "hi=hin-Deva id=ind-Latn it=ita-Latn ja=jpn-Jpan ko=kor-Hang nl=nld-Latn pl=pol-Latn pt=por-Latn ru=rus-Cyrl "
        "sw=swa-Latn th=tha-Thai tr=tur-Latn ur=urd-Arab vi=vie-Latn zh=zho-Hans"
    ).split()
)
"""mteb's codes (ISO 639-3 and script) of the languages that the paper's and our sets have, by their two letters."""

TRAINING_DATASETS: dict[str, frozenset[str]] = {
    "sentence-transformers/all-nli": frozenset({"SNLI", "MNLI"}),
    "stanfordnlp/snli": frozenset({"SNLI"}),
    "facebook/xnli": frozenset({"XNLI"}),
    "sentence-transformers/stsb": frozenset({"STSBenchmark"}),
    "mteb/stsbenchmark-sts": frozenset({"STSBenchmark"}),
}
"""Names in mteb of training data on the hub."""

REVISION_CHARACTERS = 40


def model_meta(model: str | SentenceTransformer, *, given: str | None = None, **known: Any) -> Any:
    """An `mteb.ModelMeta` of a model, to be handed to `mteb.evaluate` or loaded with its `load_model`.

    Filled in from the model: name, revision (the commit of a hub's model; of any other the SHA-256 over weights,
    tokenizer and options), languages and licence (of its model card), parameters with and without the embedding's,
    memory of its weights as they are stored, tokens, dimension, similarity, prompts, the base it was adapted from, and
    what it was trained on where its `train.yaml` names nothing but data that mteb knows.

    Args:
        model: a loaded model, or what `lacos_st.models.load_model` takes.
        given: the folder or name on the hub that a loaded model was loaded from, where it was.
        **known: fields of `ModelMeta` that the model does not say, or says otherwise, such as `name`, by default the
            hub's, or local/FOLDER.

    Raises:
        UserError: mteb is missing, the model cannot be loaded, or `known` holds what mteb does not take.
    """
    from pydantic import ValidationError

    mteb = import_mteb()
    given = model if isinstance(model, str) else given
    loaded = load_model(model) if isinstance(model, str) else model
    fields = {"name": mteb_name(given or ""), **_described(loaded, given), **known}
    allowed = mteb.models.ModelMeta.model_fields
    if unknown := sorted(known.keys() - allowed):
        raise UserError(f"mteb's ModelMeta has no field {', '.join(unknown)}: choose from {', '.join(allowed)}")
    fields = {key: value for key, value in fields.items() if key in allowed}
    try:
        try:
            return mteb.models.ModelMeta(**fields)
        except ValidationError:
            if "license" in known or not fields["license"]:
                raise
            return mteb.models.ModelMeta(**{**fields, "license": None})  # a card may name any, mteb knows some
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise UserError(f"metadata of {fields['name']}: {problems}: see mteb's ModelMeta for what it takes") from error


def mteb_name(given: str) -> str:
    """The name that mteb knows a model by: a hub's as it is, of a folder or an embedded base local/NAME.

    >>> mteb_name("someone/encoder"), mteb_name("runs/mine/model"), mteb_name("bloom-nano")
    ('someone/encoder', 'local/mine', 'local/bloom-nano')
    """
    if is_hub_name(given):
        return given
    parts = [part for part in Path(given).expanduser().parts if part not in ("/", "..")] or ["unnamed"]
    if parts[-1] == "model" and len(parts) > 1:  # a run's folder holds its model under this name
        del parts[-1]
    return f"{LOCAL}/{parts[-1]}".replace(" ", "_")


def is_hub_name(given: str) -> bool:
    """Whether a model's name is one of the hub: owner/name, and no folder here."""
    return given.count("/") == 1 and not given.startswith((".", "/", "~")) and not Path(given).exists()


def _described(model: SentenceTransformer, given: str | None) -> dict[str, Any]:
    """The fields that a loaded model says itself."""
    from mteb.models.model_meta import ScoringFunction

    folder = Path(given).expanduser() if given and Path(given).expanduser().is_dir() else None
    card = _card(given)
    hub = given is not None and is_hub_name(given)
    manifest = Manifest.read(folder / MANIFEST_FILE) if folder and (folder / MANIFEST_FILE).is_file() else None
    own = {name: getattr(model, name) for name in OF_THE_WHOLE}
    identity = json.dumps({**model_identity(model), **own}, sort_keys=True, default=str)
    revision = model.model_card_data.base_model_revision if hub else None
    total, embedding, stored_bytes = parameters_of(model)
    base = manifest.base if manifest else card.get("base_model")
    return {
        "revision": revision or hashlib.sha256(identity.encode()).hexdigest()[:REVISION_CHARACTERS],
        "loader": _loader(model, given),
        "release_date": None,
        "languages": _languages(card.get("language")),
        "n_parameters": total,
        "n_embedding_parameters": embedding,
        "memory_usage_mb": round(stored_bytes / 2**20, 2),
        "max_tokens": model.max_seq_length,
        "embed_dim": model.get_embedding_dimension(),
        "license": card.get("license"),
        "open_weights": True if hub or given in EMBEDDED else None,
        "public_training_code": None,
        "public_training_data": None,
        "framework": ["Sentence Transformers", "PyTorch", "safetensors"],
        "reference": f"https://huggingface.co/{given}" if hub else None,
        "similarity_fn_name": ScoringFunction.from_str(model.similarity_fn_name),
        "use_instructions": any(model.prompts.values()),
        "training_datasets": _training_datasets(folder),
        "adapted_from": base if base and is_hub_name(base) else None,
        "modalities": ["text"],
        "model_type": ["dense"],
    }


def _card(given: str | None) -> dict[str, Any]:
    """The head of a model's card; empty where there is none, or none that can be read."""
    from huggingface_hub import ModelCard
    from sentence_transformers.util import load_file_path

    try:
        file = load_file_path(given, "README.md") if given and given not in EMBEDDED else None
        return ModelCard(Path(file).read_text(encoding="utf-8")).data.to_dict() if file else {}
    except Exception as error:  # a card is written by hand, and read for nothing but this
        logger.warning("the model card of %s cannot be read: %s", given, error)
        return {}


def parameters_of(model: SentenceTransformer) -> tuple[int, int | None, int]:
    """Numbers that a model is made of, whatever each is stored in: all, those of the token embedding; and its bytes.

    An 8-bit weight counts by its codes (their absmax is how they are stored, not a parameter), tied weights once.
    """
    from lacos_st.stored import Stored8bit

    stored = [module for module in model.modules() if isinstance(module, Stored8bit)]
    total = sum(p.numel() for p in model.parameters()) + sum(module.codes.numel() for module in stored)
    first = next(iter(model.children()), None)
    inner: Any = getattr(first, "model", None)
    table = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    table = getattr(table, "base_layer", table)  # within an adapter
    embedding = None if table is None else table.num_embeddings * table.embedding_dim
    tensors = [*model.parameters(), *model.buffers()]
    return total, embedding, sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _languages(codes: str | list[str] | None) -> list[str] | None:
    """Those of a model card in mteb's codes; None where the card names none, or one that is not in our table."""
    listed = [codes] if isinstance(codes, str) else codes or []
    found = [LANGUAGES.get(code.split("-")[0]) for code in listed]
    return sorted({code for code in found if code}) if found and None not in found else None


def _training_datasets(folder: Path | None) -> set[str] | None:
    """The names in mteb of what a run was trained on; None, "not known", where it does not know it all."""
    file = folder / "train.yaml" if folder else None
    if file is None or not file.is_file():
        return None
    from lacos_st.options import read_yaml

    data = read_yaml(file).get("data") or []
    names = [TRAINING_DATASETS.get(str(each).partition(":")[0].partition("@")[0]) for each in data]
    return {name for each in names if each for name in each} if names and None not in names else None


def _loader(model: SentenceTransformer, given: str | None) -> Callable[..., Any]:
    """What `ModelMeta.load_model` calls: mteb's own wrapper; of a folder or a loaded model, around that."""
    from mteb.models import SentenceTransformerEncoderWrapper

    if given is not None and is_hub_name(given):
        return SentenceTransformerEncoderWrapper

    # a closure, as mteb copies the arguments of a loader deeply, weights and all, and writes them into its results
    def load_local(
        name: str,
        revision: str | None = None,
        device: str | None = None,
        model_prompts: Mapping[str, str] | None = None,
        **_: Any,
    ) -> Any:
        return wrapped(model if given is None else load_model(given, device=device), prompts=model_prompts)

    return load_local


def wrapped(model: SentenceTransformer, *, prompts: Mapping[str, str] | None = None) -> Any:
    """A model in mteb's `SentenceTransformerEncoderWrapper`; the model's own prompts are kept, `prompts` go over them.

    Raises:
        UserError: mteb knows no task, type of task or side of that name.
    """
    import warnings

    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.models.abs_encoder import AbsEncoder

    with warnings.catch_warnings():  # mteb calls what sentence-transformers and mteb itself have renamed
        warnings.simplefilter("ignore")
        if not prompts:
            return SentenceTransformerEncoderWrapper(model)
        try:
            AbsEncoder.validate_task_to_prompt_name(dict(prompts))
        except KeyError as error:
            raise UserError(
                f"prompts are for names that mteb does not know ({', '.join(sorted(error.args[0]))[:300]})"
            ) from error
        own = dict(model.prompts)
        kept = {name: text for name, text in own.items() if text is not None}
        wrapper = SentenceTransformerEncoderWrapper(model, model_prompts={**kept, **prompts})
        model.prompts = own  # mteb has overwritten them in the caller's model
        return wrapper
