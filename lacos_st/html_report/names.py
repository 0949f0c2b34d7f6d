"""Short names of paths that stay apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

MODEL = "model"
"""The folder of a run's model, `runs.RunFolder.model`."""


def short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, with as many before it as tell them apart; equal paths stay equal.

    A run's model goes by the run's name, unless something else of that name is shown.

    >>> short_names(["runs/a/model", "runs/b/model", "bloom-nano"])
    ['a', 'b', 'bloom-nano']
    """
    split = [PurePath(path).parts or (path,) for path in paths]
    parts = [part[:-1] if len(part) > 1 and part[-1] == MODEL else part for part in split]
    parts = [part if parts.count(part) == 1 else whole for part, whole in zip(parts, split, strict=True)]
    longest = max((len(part) for part in parts), default=1)
    kept = [1] * len(parts)
    for _ in range(longest):
        shown = ["/".join(part[-count:]) for part, count in zip(parts, kept, strict=True)]
        clashing = [
            any(shown[place] == shown[other] and parts[place] != parts[other] for other in range(len(parts)))
            for place in range(len(parts))
        ]
        kept = [min(count + clash, longest) for count, clash in zip(kept, clashing, strict=True)]
    return ["/".join(part[-count:]) for part, count in zip(parts, kept, strict=True)]
