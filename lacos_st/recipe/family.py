"""A family: the bases of different sizes that a plan chooses from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lacos_st.errors import UserError
from lacos_st.recipe.published import PUBLISHED, published, published_shape
from lacos_st.recipe.shapes import ModelShape, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OWNER = {"bloom": "bigscience", "pythia": "EleutherAI"}
"""Of the published families, on the hub."""


@dataclass(frozen=True)
class Member:
    """One base of a family.

    Attributes:
        name: that `lacos-st train` knows it by: of the hub, of a folder, or embedded.
        shape: of it.
    """

    name: str
    shape: ModelShape

    @property
    def parameters(self) -> int:
        """The papers' N: without the token embedding."""
        return self.shape.without_embedding


def family_of(name: str, read_config: Callable[[str], PreTrainedConfig]) -> list[Member]:
    """The bases of a family, the smallest first.

    Args:
        name: "bloom" or "pythia"; a folder whose sub-folders are bases (a ladder); or a text file with one base on each
            line, as `lacos-st train` knows it (hub name, folder, embedded name; relative folders are searched from the
            file's own), or by a published size (pythia-70m); # starts a comment.
        read_config: of a base that is not published here; see `lacos_st.loading.read_config`.

    Raises:
        UserError: no such family, a base that cannot be read, or fewer than two sizes.
    """
    if name in OWNER:
        found = [Member(f"{OWNER[name]}/{size}", published_shape(size)) for size in PUBLISHED if size.startswith(name)]
    elif Path(name).is_dir():
        folders = sorted(path.parent for path in Path(name).glob("*/config.json"))
        found = [Member(str(folder), shape_of(read_config(str(folder)))) for folder in folders]
    else:
        found = [_member(base, Path(name).parent, read_config) for base in _lines(Path(name))]
    sizes: dict[int, str] = {}
    for member in found:
        if (other := sizes.setdefault(member.parameters, member.name)) != member.name:
            raise UserError(
                f"the family {name}: {other} and {member.name} have one size ({member.parameters:,} parameters without "
                "the token embedding): leave out one of them"
            )
    if len(sizes) < 2:
        held = f"only {found[0].name}" if found else "no base (a folder with a config.json)"
        raise UserError(
            f"the family {name} holds {held}: a plan chooses between two sizes or more, so name others; to train a "
            "base that you have chosen, use lacos-st train --preset recipe, and lacos-st cost for what that takes"
        )
    return sorted(found, key=lambda member: member.parameters)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the family {str(path)!r} is neither {' nor '.join(OWNER)}, nor a folder of bases, nor a text file with "
            f"one base on each line ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from error
    bases = [line.partition("#")[0].strip() for line in text.splitlines()]
    return list(dict.fromkeys(base for base in bases if base))


def _member(base: str, beside: Path, read_config: Callable[[str], PreTrainedConfig]) -> Member:
    config = published(base)
    if config is not None:
        owner = OWNER[base.rpartition("/")[2].partition("-")[0]]
        return Member(f"{owner}/{base.rpartition('/')[2]}", shape_of(config))
    if (beside / base / "config.json").is_file():
        base = str(beside / base)
    return Member(base, shape_of(read_config(base)))
