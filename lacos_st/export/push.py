"""`push_folder`: a saved or exported model to the hub, as it lies there, with its card filled in."""

from __future__ import annotations

from pathlib import Path

from lacos_st.checkpoint import MANIFEST_FILE
from lacos_st.embedded import EMBEDDED
from lacos_st.errors import UserError
from lacos_st.export.adapter import BASE_FOLDER, CONFIG_FILE
from lacos_st.export.card import CARD_FILE, MARK, Exported, write_card
from lacos_st.export.facts import read_facts
from lacos_st.export.saved import SavedModel
from lacos_st.folder import check_folder, read_json
from lacos_st.loading import first_line
from lacos_st.unfinished import MODULES_FILE, check_finished


def push_folder(
    model: str,
    repository: str,
    *,
    private: bool = False,
    exist_ok: bool = False,
    results: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a model's folder with sentence-transformers' own `push_to_hub`; no weight is loaded.

    Args:
        model: the folder.
        repository: owner/name on the hub.
        private: whether a new repository is.
        exist_ok: whether it may be there already.
        results: for the card, see `read_facts`.
        license: for the card.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder holds no whole model, or needs a base that is on this machine only; or the hub refuses.
    """
    folder = Path(model).expanduser()
    if not (folder / MODULES_FILE).is_file():
        raise UserError(f"{model}: no folder of a saved or exported model (it has no {MODULES_FILE})")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"repository {repository!r}: expected OWNER/NAME")
    check_folder_of(folder)
    _fill_card(folder, repository, results=results, license=license)

    from sentence_transformers import SentenceTransformer
    from torch import nn

    carrier = SentenceTransformer(modules=[nn.Identity()])  # the call is a method, and uploads the folder as it is
    try:
        return carrier.push_to_hub(
            repository,
            private=private,
            exist_ok=exist_ok,
            local_model_path=str(folder),
            commit_message="Add a sentence encoder written by lacos_st",
        )
    except Exception as error:  # of the network, the hub or its client
        raise UserError(
            f"the hub did not take {repository} ({type(error).__name__}: {first_line(error)}): log in with "
            "`hf auth login` (a token that may write), and give --exist-ok where the repository is there already"
        ) from error


def check_folder_of(folder: Path) -> None:
    """That a folder holds a whole model that loads on another machine.

    Raises:
        UserError: it was not saved to its end, or names a base that is a path of this machine.
    """
    check_folder_links(folder)
    check_finished(str(folder))
    if (folder / MANIFEST_FILE).is_file():
        saved = SavedModel.read(str(folder))
        base = saved.base
        lonely = not saved.manifest.self_contained and base not in EMBEDDED and _is_path(base)
    elif (folder / CONFIG_FILE).is_file():
        base = str(read_json(folder / CONFIG_FILE).get("base_model_name_or_path"))
        lonely = not (folder / BASE_FOLDER).is_dir() and _is_path(base)
    else:
        return
    if lonely:
        raise UserError(
            f"{folder} is an adapter on {base}, which is on this machine only: nobody else could load it. Push what "
            "`lacos-st export --format merged` writes"
        )


def check_folder_links(folder: Path) -> None:
    """`check_folder`, where it knows the kind of folder: it refuses peft's."""
    if not (folder / CONFIG_FILE).is_file():
        check_folder(folder)


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1


def _fill_card(folder: Path, repository: str, *, results: str | None, license: str | None) -> None:
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if MARK in text:
        if "THIS_FOLDER" in text:
            card.write_text(text.replace("THIS_FOLDER", repository), encoding="utf-8")
        return
    if not (folder / MANIFEST_FILE).is_file():
        return  # somebody else's model, or card
    saved = SavedModel.read(str(folder))
    facts = read_facts(saved, results=results, license=license)
    write_card(folder, facts, Exported("saved", None, "trained", None), name=repository)
