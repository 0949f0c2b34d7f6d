"""Texts on the page of `lacos-st report`: escaped whatever they hold, and names short and apart."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from html_report.report_parts import EVIL, LAST, PLAN, Read, log, results, run
from lacos_st.html_report.curves import curves_section
from lacos_st.html_report.markup import script_json, tag
from lacos_st.html_report.memory import memory_section
from lacos_st.html_report.names import short_names
from lacos_st.html_report.plan import parse_plan, plan_section
from lacos_st.html_report.quantization import parse_errors, quantization_section
from lacos_st.html_report.scores import scores_section
from lacos_st.recipe.law_file import Laws


@given(st.text(alphabet=st.characters(blacklist_characters="\r\0", blacklist_categories=["Cs"])))
def test_a_text_is_a_text_whatever_it_holds(text: str) -> None:
    read = Read(tag("td", text, title=text, class_="x"))
    assert (read.tags, read.text, dict(read.attributes)) == (["td"], text, {"title": text, "class": "x"})
    written = script_json({"a": text})
    assert json.loads(written) == {"a": text}
    assert not set("<>&") & set(written)


def test_no_section_lets_markup_in(laws: Laws) -> None:
    named = dataclasses.replace(laws, family=EVIL)
    name = EVIL.replace("/", "")  # which would be a path's
    layers = [{"name": name, "shape": [4, 4], "blocks": [{"block_size": 4, "errors": {name: {"relative_rms": 0.1}}}]}]
    sections = [
        scores_section([(name, results((name, 50.0), ("b", 40.0), baseline="b"))]),
        curves_section([run(name, base=name), run("b", batch_size=4)]),
        memory_section([run(name, rows=log(last={**LAST, "predicted_at": name, "measured": name}))]),
        quantization_section([parse_errors({"base": name, "layers": layers}, source=name)]),
        plan_section([(name, parse_plan({**PLAN, "law": name, "why": [name]}, source=name))], [(name, named)], []),
    ]
    for section in sections:
        assert section is not None
        read = Read(section.body)
        assert name in " ".join([read.text, *(value or "" for _, value in read.attributes)]), section.name
        assert not {"img", "script"} & set(read.tags), section.name


@given(st.lists(st.sampled_from(["a/model", "b/model", "a", "x/a", "c/x/a", "model", "b/c/model", "a/a"]), unique=True))
def test_short_names_tell_paths_apart(paths: list[str]) -> None:
    names = short_names(paths)
    assert len(set(names)) == len(paths)
    assert all(len(name) <= len(path) for name, path in zip(names, paths, strict=True))


def test_a_run_beside_its_model_keeps_the_names_apart() -> None:
    assert short_names(["x/r", "x/r/model"]) == ["r", "model"]
