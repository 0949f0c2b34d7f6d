"""`ReportOptions`: what a page is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lacos_st.errors import UserError

SECTIONS = ("scores", "curves", "memory", "quantization", "similarity", "plan")


@dataclass(frozen=True)
class ReportOptions:
    """Options of `lacos-st report`.

    Attributes:
        runs: paths of what is shown, or names of embedded models; see `inputs.KINDS`.
        output: the page.
        title: of the page.
        sentences: file with a sentence on each line, for the heat map; None for a set of ours.
        quantization: load the bases of the runs with float weights, and compute what 8 bits lose in each layer.
        skip: sections that are left out.
        device: torch device for the heat map's models; None for the library's choice.
        overwrite: replace a page that is there.

    Raises:
        UserError: nothing to show, a section that is none, or a page that is there.
    """

    runs: tuple[str, ...]
    output: Path = Path("report.html")
    title: str = "Report"
    sentences: Path | None = None
    quantization: bool = False
    skip: tuple[str, ...] = ()
    device: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("nothing to show: name a run, scores, a model, a law or a plan")
        for name in self.runs:
            if self.runs.count(name) > 1:
                raise UserError(f"{name} is given {self.runs.count(name)} times: give it once")
        if unknown := [name for name in self.skip if name not in SECTIONS]:
            raise UserError(f"there is no section {', '.join(unknown)}: expected of {', '.join(SECTIONS)}")
        if self.output.is_dir():
            raise UserError(f"--output {self.output} is a folder: name a file, such as {self.output / 'report.html'}")
        if self.output.exists() and not self.overwrite:
            raise UserError(f"{self.output} exists: choose another place, or say --overwrite")
