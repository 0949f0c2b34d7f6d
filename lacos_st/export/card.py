"""The model card of an exported model, filled in: base, data, method, scores, FLOP, how to load, limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lacos_st.atomic import write_text
from lacos_st.checkpoint import LIBRARIES, PROBES, installed
from lacos_st.export.facts import Facts
from lacos_st.export.fidelity import Fidelity
from lacos_st.recipe.units import show_flops
from lacos_st.report import markdown_table

CARD_FILE = "README.md"
MARK = "<!-- lacos-st: filled in -->"
"""Which card is ours: `lacos-st push` writes one where it is not there."""

POOLED = "`{pooling}` pooling"
HOW = {
    "merged": """\
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")  # on a CPU, float32 is faster: model_kwargs={{"dtype": "float32"}}
vectors = model.encode(["A man plays the guitar.", "Un hombre toca la guitarra."])
print(model.similarity(vectors, vectors))
```""",
    "adapter": """\
```python
from peft import PeftModel
from transformers import AutoModel

model = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}"), "{name}")
```

or, with the pooling, `SentenceTransformer("{name}")`, which looks for the base where adapter_config.json names it.""",
    "onnx": """\
```python
import onnxruntime
from transformers import AutoTokenizer

tokens = AutoTokenizer.from_pretrained("{name}")(["A man plays the guitar."], padding=True, return_tensors="np")
session = onnxruntime.InferenceSession("{name}/onnx/model.onnx")
names = ("input_ids", "attention_mask")
token_embeddings = session.run(None, {{name: tokens[name] for name in names}})[0]  # then {pooling} pooling
```

or `SentenceTransformer("{name}", backend="onnx")` where optimum-onnx is installed.""",
    "saved": """\
```python
import lacos_st  # pip install lacos_st
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{name}")  # without the import: trust_remote_code=True
vectors = model.encode(["A man plays the guitar.", "Un hombre toca la guitarra."])
```""",
}


@dataclass(frozen=True)
class Exported:
    """What stands in the folder that the card is for.

    Attributes:
        format: of the export; "saved" for a model as lacos_st saves it.
        dtype: of the weights; None for an adapter alone.
        weights: "trained" or "original".
        fidelity: see `export_model`; None where nothing was compared.
        onnx_cosine: of the graph.
    """

    format: str
    dtype: str | None
    weights: str
    fidelity: Fidelity | None
    onnx_cosine: float | None = None


def write_card(folder: Path, facts: Facts, exported: Exported, *, name: str | None = None) -> None:
    """Write README.md.

    Args:
        folder: of the model.
        facts: see `read_facts`.
        exported: what was written.
        name: by which the model will be loaded; None for a placeholder.
    """
    shown = name or "THIS_FOLDER"
    base = facts.base if exported.weights == "original" or exported.format != "adapter" else f"{shown}/base"
    pooling = facts.config.pooling if facts.config else "its"
    parts = [
        _head(facts, exported),
        MARK,
        f"# Sentence encoder from {facts.base}",
        "Maps sentences to vectors whose cosine says how alike they are. Written by lacos_st, after "
        '"LACoS-BLOOM" (arXiv 2305.06404).',
        "## Load it",
        HOW[exported.format].format(name=shown, base=base, pooling=pooling),
        "## How it was made",
        "\n".join(f"- {line}" for line in (*_made(facts), *_written(exported))),
        "## Data",
        *_data(facts),
        "## Scores",
        _scores(facts),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(facts, exported)),
        "Versions: " + ", ".join(f"{library} {installed(library)}" for library in LIBRARIES) + ".",
    ]
    write_text(folder / CARD_FILE, "\n\n".join(parts) + "\n")


def _head(facts: Facts, exported: Exported) -> str:
    lines = ["---", "library_name: " + ("peft" if exported.format == "adapter" else "sentence-transformers")]
    lines += ["pipeline_tag: sentence-similarity"]
    lines += [f"license: {facts.license}"] if facts.license else []
    lines += [f"base_model: {facts.base}"] if facts.base_on_hub else []
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "lacos-st"]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _made(facts: Facts) -> list[str]:
    licence = facts.base_licence or "not known here: see where it is from"
    lines = [f"Base: {facts.base}; licence: {licence}."]
    config = facts.config
    if config is None:
        return [*lines, "Method: not recorded (no train.yaml lies beside the model)."]
    adapters = ""
    if config.lora_rank:
        alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
        adapters = f", LoRA of rank {config.lora_rank} and alpha {alpha:g} on {' '.join(config.lora_targets)}"
    storage = f", base in 8-bit blocks of {config.block_size}" if config.method == "lacos" else ""
    loss = "softmax over three NLI classes"
    if config.method != "sbert":
        both = ", both directions" if config.symmetric else ""
        loss = f"in-batch negatives{both}, scale {config.scale:g}"
    batches = f"batches of {config.batch_size}" + (
        f" x {config.gradient_accumulation} accumulated" if config.gradient_accumulation > 1 else ""
    )
    steps = "" if facts.steps is None else f", {facts.steps:,} steps"
    lines += [
        f"Method: {config.method}{storage}{adapters}; {config.pooling} pooling; loss: {loss}.",
        f"Training: {batches}{steps}, {config.optimizer}, learning rate {config.lr:g}, {config.scheduler}, "
        f"seed {config.seed}.",
    ]
    if facts.flops is None or facts.tokens is None:
        lines.append("Compute: not known (it is counted where the training data and the run's log are).")
    else:
        lines.append(
            f"Compute: about {show_flops(facts.flops)} for {facts.tokens:.2g} tokens, counted as in arXiv 2406.04165 "
            "(2·(N_F + N_B + N_U) per token) from the mean length of the first rows."
        )
    return lines


def _written(exported: Exported) -> list[str]:
    lines = []
    if exported.format in ("merged", "onnx"):
        of = "as the adapter was trained on them" if exported.weights == "trained" else "as in the base's own files"
        lines.append(f"Written as {exported.format}, {exported.dtype}: the adapter is folded into weights {of}.")
    if exported.fidelity is not None:
        lines.append(
            f"Least cosine to the trained model over {len(PROBES)} probe sentences: {exported.fidelity}"
            + ("." if exported.onnx_cosine is None else f"; of the graph in onnxruntime {exported.onnx_cosine:.6f}.")
        )
    return lines


def _data(facts: Facts) -> list[str]:
    if not facts.sources:
        return ["Not recorded (no train.yaml lies beside the model)."]
    rows = [["source", "rows", "licence"]]
    for source in facts.sources:
        count = "not counted: not here" if source.rows is None else f"{source.rows:,}"
        rows.append([source.name, count, source.licence or "not known here: see where it is from"])
    trained = [] if facts.rows is None else [f"Trained on {facts.rows:,} rows of these, validation left out."]
    return [markdown_table(rows), *trained]


def _scores(facts: Facts) -> str:
    if facts.scores is None:
        return "Not evaluated with `lacos-st evaluate --output`, or its results were not named (`--results`)."
    rows = [["task", "languages", "pairs", "cosine", "best of four"]]
    for task in facts.scores["tasks"]:
        cells = [f"{task['spearman']['cosine']:.2f}", f"{task['max']:.2f}"]
        rows.append([task["task"], task["languages"], f"{task['pairs']:,}", *cells])
    for label, average in facts.scores.get("averages", {}).items():
        if average["max"] is not None:
            cells = [f"{average['cosine']:.2f}", f"{average['max']:.2f}"]
            rows.append([f"**{label}** ({len(average['tasks'])} tasks)", "", "", *cells])
    cut = facts.scores.get("info", {}).get("truncate_dim")
    of = "the trained model" if cut is None else f"the first {cut} dimensions of the trained model's embeddings"
    return f"Spearman x100, of {of}; the best of cosine, Manhattan, Euclidean and dot is the paper's.\n\n" + (
        markdown_table(rows)
    )


def _limits(facts: Facts, exported: Exported) -> list[str]:
    lines = []
    if facts.config is not None and facts.config.max_seq_length:
        lines.append(f"Sentences are cut after {facts.config.max_seq_length} tokens.")
    if exported.dtype in ("float16", "bfloat16"):
        lines.append(f"Libraries compute in {exported.dtype} unless told otherwise (`dtype`); embeddings then differ.")
    if exported.format == "onnx":
        lines.append("The file gives token embeddings: pooling is the caller's, or sentence-transformers'.")
    if exported.format == "adapter" and exported.weights == "original":
        lines.append("Trained on the base in 8 bits, loaded on the base in floats: see the cosine above.")
    return [*lines, "A language that is neither in the base's training nor in the data above is not served.",
            "Similarity is learnt from the data above, with their biases; it is no measure of truth."]  # fmt: skip
