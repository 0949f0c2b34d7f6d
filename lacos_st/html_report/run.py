"""`write_report`: one page from what its options name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lacos_st.atomic import write_text
from lacos_st.checkpoint import installed
from lacos_st.errors import UserError
from lacos_st.html_report.assemble import assemble, library
from lacos_st.html_report.curves import curves_section
from lacos_st.html_report.inputs import Inputs, read_inputs
from lacos_st.html_report.memory import memory_section
from lacos_st.html_report.options import SECTIONS, ReportOptions
from lacos_st.html_report.plan import parse_plan, plan_section
from lacos_st.html_report.quantization import BaseErrors, parse_errors, quantization_section
from lacos_st.html_report.scores import scores_section
from lacos_st.html_report.section import Section
from lacos_st.html_report.sentences import read_sentences
from lacos_st.html_report.similarity import Similarities, similarities, similarity_section
from lacos_st.models import check_device

logger = logging.getLogger(__name__)

MISSING = {
    "scores": "Scores: no results.json of lacos-st evaluate was named.",
    "curves": "Curves: no training run with a log was named.",
    "memory": "Memory: no training run with figures of memory in its log was named.",
    "quantization": "Quantisation error: no file of lacos-st quantization BASE --json was named, and no base of a "
    "run was computed (--quantization).",
    "similarity": "Similarity: no model was named, and none lies in a run's folder.",
    "plan": "Plan: no file of lacos-st plan --json or lacos-st fit --output was named.",
}


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: of the page.
        size: bytes of it.
        shown: what it shows, phrases.
        left_out: what it does not and why, sentences.
    """

    path: Path
    size: int
    shown: tuple[str, ...]
    left_out: tuple[str, ...]


def write_report(options: ReportOptions) -> Report:
    """Read what is named, compute what is asked for, and write the page, whole or not at all.

    Raises:
        UserError: something that is named cannot be read, there is nothing to show, or the page cannot be written.
    """
    check_device(options.device)
    sentences = read_sentences(options.sentences)
    inputs = read_inputs(options.runs)
    plans = [(name, parse_plan(values, source=name)) for name, values in inputs.plans]
    errors = [parse_errors(values, source=name) for name, values in inputs.errors]
    library()  # or nothing that takes its time need begin
    left_out: list[str] = [f"{MISSING[name].partition(':')[0]}: skipped, as asked." for name in options.skip]
    if inputs.tables and not inputs.laws:
        left_out.append("Plan: a sweep's table is drawn with its laws: give the file of lacos-st fit --output, too.")
    runs = [run for _, run in inputs.runs]
    made = {
        "scores": lambda: scores_section(inputs.scores),
        "curves": lambda: curves_section(runs),
        "memory": lambda: memory_section(runs),
        "quantization": lambda: quantization_section(errors + _computed(options, inputs, left_out)),
        "similarity": lambda: similarity_section(_similar(options, inputs, sentences, left_out), sentences),
        "plan": lambda: plan_section(plans, inputs.laws, inputs.tables),
    }
    sections: list[Section] = []
    for name in SECTIONS:
        if name in options.skip:
            continue
        section = made[name]()
        if section is None:
            title = MISSING[name].partition(":")[0]
            left_out += [] if any(said.startswith(title) for said in left_out) else [MISSING[name]]
        else:
            sections.append(section)
    left_out += [f"{run.name}: its log has no line yet." for run in runs if not run.rows]
    if not sections:
        raise UserError(f"there is nothing to show: {' '.join(left_out)}")
    footer = f"Written by lacos-st {installed('lacos-st')} on {_now()} from {', '.join(options.runs)}."
    text = assemble(options.title, sections, left_out=left_out, footer=footer)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text)
    shown = tuple(section.summary for section in sections)
    return Report(options.output, len(text.encode()), shown, tuple(left_out))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _computed(options: ReportOptions, inputs: Inputs, left_out: list[str]) -> list[BaseErrors]:
    """Errors of the runs' bases; a base that cannot be loaded so is left out with the reason."""
    if not options.quantization:
        return []
    from lacos_st.base_errors import base_errors
    from lacos_st.layer_errors import as_json

    found = []
    for base in dict.fromkeys(run.config.base for _, run in inputs.runs):
        logger.info("%s: loading with float weights, for what 8 bits lose", base)
        try:
            values = {"base": base, "layers": as_json(base_errors(base))}
        except UserError as error:
            left_out.append(f"Quantisation error: {error}.")
            continue
        found.append(parse_errors(values, source=base))
    if not inputs.runs:
        left_out.append("Quantisation error: --quantization is for bases of training runs, and none was named.")
    return found


def _similar(
    options: ReportOptions, inputs: Inputs, sentences: Sequence[str], left_out: list[str]
) -> list[Similarities]:
    """Of each model; one that cannot be loaded is left out with the reason."""
    found = []
    for model in dict.fromkeys(inputs.models):
        logger.info("%s: embedding %d sentences", model, len(sentences))
        try:
            found.append(similarities(model, sentences, device=options.device))
        except UserError as error:
            left_out.append(f"Similarity: {error}.")
    return found
