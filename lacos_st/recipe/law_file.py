"""The file of a fit: the laws of a family with their samples, the IsoFLOP lines, and where all of it comes from."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lacos_st.atomic import write_text
from lacos_st.errors import UserError
from lacos_st.recipe.estimate import BOOTSTRAP, fit_law, observe
from lacos_st.recipe.forms import FormName
from lacos_st.recipe.isoflop import Isoflops, Parabola, PowerLaw, isoflops
from lacos_st.recipe.law import Fitted, HeldOut, Law
from lacos_st.recipe.runs_table import Run, rows_sha256

FORMAT_VERSION = 1
LIBRARIES = ("lacos-st", "numpy", "scipy")
NUMBERS = re.compile(r"\[\n[\s\d.,eE+-]+\]")
FORMS: tuple[FormName, ...] = ("ND", "SND")


@dataclass(frozen=True)
class Provenance:
    """Where laws come from.

    Attributes:
        source: name of the table of runs.
        rows: of it that were fitted.
        rows_sha256: of those, see `runs_table.rows_sha256`.
        unreached: rows that did not reach their budget and were left out.
        commits: of the code that made the runs.
        date: of the fit, as the caller says it.
        bootstrap: samples.
        seed: of the samples.
        versions: of the libraries that fitted.
    """

    source: str
    rows: int
    rows_sha256: str
    unreached: int
    commits: tuple[str, ...]
    date: str
    bootstrap: int
    seed: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Laws:
    """All laws of a family.

    Attributes:
        family: of the models.
        laws: by method and form.
        isoflops: by method.
        provenance: of them.
    """

    family: str
    laws: tuple[Law, ...]
    isoflops: dict[str, Isoflops]
    provenance: Provenance

    @property
    def methods(self) -> list[str]:
        """Those with a law."""
        return list(dict.fromkeys(law.method for law in self.laws))

    def law(self, method: str, form: FormName = "ND") -> Law:
        """The law of a method.

        Raises:
            UserError: there is none.
        """
        for law in self.laws:
            if (law.method, law.form) == (method, form):
                return law
        there = ", ".join(f"{law.method} ({law.form})" for law in self.laws)
        raise UserError(f"there is no law of form {form} for {method}: the file has {there}")

    def to_dict(self) -> dict[str, Any]:
        """What the file holds: NaN as null, samples as a list per constant."""
        laws = []
        for law in self.laws:
            values = asdict(law)
            values["samples"] = {name: [sample[name] for sample in law.samples] for name in law.constants}
            values["intervals"] = law.intervals
            laws.append(values)
        isoflop = {method: asdict(lines) for method, lines in self.isoflops.items()}
        head = {"format_version": FORMAT_VERSION, "family": self.family, "provenance": asdict(self.provenance)}
        return without_nan({**head, "laws": laws, "isoflops": isoflop})

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; a list of numbers, as bootstrap samples are, takes a line.

        Raises:
            UserError: it cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        text = NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
        write_text(path, text + "\n")


def fit_laws(
    runs: Mapping[str, Sequence[Run]],
    *,
    source: str,
    date: str,
    forms: Sequence[FormName] = FORMS,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
    unreached: int = 0,
) -> Laws:
    """Every law of a family.

    Args:
        runs: by method, see `fittable`.
        source: name of their table.
        date: to be written down.
        forms: to fit for each method.
        bootstrap: samples for the intervals; 0: none.
        seed: of the samples.
        unreached: rows of the table that were left out.
    """
    rows = [run for of_method in runs.values() for run in of_method]
    provenance = Provenance(
        source=source,
        rows=len(rows),
        rows_sha256=rows_sha256(rows),
        unreached=unreached,
        commits=tuple(sorted({run.commit for run in rows})),
        date=date,
        bootstrap=bootstrap,
        seed=seed,
        versions={name: _installed(name) for name in LIBRARIES},
    )
    laws = [fit_law(of, form, bootstrap=bootstrap, seed=seed) for of in runs.values() for form in forms]
    lines = {method: isoflops(observe(of_method, "ND")) for method, of_method in runs.items()}
    return Laws(rows[0].family, tuple(laws), lines, provenance)


def load_laws(path: str | Path) -> Laws:
    """Read what `Laws.save` wrote.

    Raises:
        UserError: no such file, no file of laws, or one of a newer version.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): expected a file that lacos-st fit --output wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}): expected a file that lacos-st fit --output wrote") from error
    found = values.get("format_version") if isinstance(values, dict) else None
    if found != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {found!r}: expected {FORMAT_VERSION}, as lacos-st fit --output writes it"
        )
    try:
        return Laws(
            values["family"],
            tuple(_law(law) for law in values["laws"]),
            {method: _isoflops(lines) for method, lines in values["isoflops"].items()},
            Provenance(**{**values["provenance"], "commits": tuple(values["provenance"]["commits"])}),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no file of laws ({type(error).__name__}: {error}): fit them anew") from error


def _law(values: Mapping[str, Any]) -> Law:
    names = list(values["constants"])
    columns = [values["samples"][name] for name in names]
    fitted: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values["fitted"].items()
    }
    changed: dict[str, Any] = {
        "samples": tuple(dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)),
        "fitted": Fitted(**fitted),
        "held_out": tuple(HeldOut(**part) for part in values["held_out"]),
        "warnings": tuple(values["warnings"]),
    }
    return Law(**{name: value for name, value in {**values, **changed}.items() if name != "intervals"})


def _isoflops(values: Mapping[str, Any]) -> Isoflops:
    power = values["power_law"]
    return Isoflops(
        tuple(Parabola(**_with_nan(line)) for line in values["parabolas"]),
        None if power is None else PowerLaw(**_with_nan(power)),
    )


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def without_nan(value: Any) -> Any:
    """Dictionaries and lists as JSON can hold them: None for what is no finite number."""
    if isinstance(value, dict):
        return {name: without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # from a checkout that is not installed
        return "unknown"
