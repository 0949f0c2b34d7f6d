"""The shape of the package: which file may import which, what it may contain, what it exports."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import lacos_st

ROOT = Path(lacos_st.__file__).parent
FOLDERS = ("commands", "corpus", "export", "html_report", "leaderboard", "recipe", "serve")
FILES = {path.stem: path for path in sorted(ROOT.glob("*.py"))}
"""By name: "cli", "recipe.cost"; a folder's own __init__ by the folder's name, "recipe"."""
for folder in FOLDERS:
    FILES |= {f"{folder}.{path.stem}".removesuffix(".__init__"): path for path in sorted((ROOT / folder).glob("*.py"))}
MAX_LINES = 400
HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "matplotlib",
    "mteb",
    "numpy",
    "peft",
    "scipy",
    "torch",
    "transformers",
}
HEAVY |= {"sentence_transformers"}

# What a file may import of ours, outside functions, at most. A file that is not named here may import whatever makes
# no circle; a circle is caught by test_no_circles.
ALLOWED = {
    "hush": set(),
    "errors": set(),
    "upstream": {"errors"},
    "blockwise": {"upstream"},
    "stored": {"blockwise", "errors", "upstream"},
    "linear": {"blockwise", "errors", "stored"},
    "layer_errors": {"blockwise", "linear", "recipe.tables"},
    "quantizer": {"blockwise", "errors", "heap", "linear", "pages", "stored", "upstream"},
    "pages": set(),
    "ragged": set(),
    "alibi": set(),
    "scoring": {"alibi"},
    "sdpa": {"alibi", "ragged", "scoring", "upstream"},
    "varlen": {"alibi", "ragged", "scoring"},
    "flex": {"alibi", "ragged", "scoring"},
    "kernels": {"alibi", "flex", "ragged", "scoring", "sdpa", "upstream", "varlen"},
    "attention": {"alibi", "errors", "kernels", "ragged", "scoring", "sdpa"},
    "bloom": {"attention", "bloom_layer", "flat", "product", "upstream"},
    "flat": {"errors", "ragged"},
    "echo": {"ragged"},
    "lengths": {"errors"},
    "savable": {"adapters", "checkpoint", "errors", "linear", "probes", "quantizer", "stored"},
    "saving": {"adapters", "bloom", "checkpoint", "errors", "probes", "savable", "unfinished", "upstream"},
    "both_ways": {"bloom", "errors"},
    "negatives": {"errors"},
    "bloom_layer": {"attention", "product", "upstream"},
    "product": {"linear"},
    "columns": set(),
    "heap": set(),
    "pooling": {"folder", "seal", "upstream"},
    "seal": {"errors"},
    "pickles": {"errors"},
    "finite": {"errors", "losses", "ranks"},
    "ranks": {"errors"},
    "shares": set(),
    "streams": {"errors"},
    "unheeded": {"presets", "settings"},
    "autocast": {"errors", "recipe.machine", "upstream"},
    "peak": {"recipe.machine"},
    "trackers": {"errors"},
    "base_errors": {"embedded", "errors", "layer_errors", "loading", "quantizer"},
    "html_report": set(),
    "html_report.options": {"errors"},
    "html_report.names": set(),
    "html_report.markup": set(),
    "html_report.section": {"html_report.markup"},
    "html_report.charts": {"canvas"},
    "html_report.sentences": {"errors"},
    "html_report.assemble": {"errors", "html_report.charts", "html_report.markup", "html_report.section"},
    "headers": {"errors"},
    "folder": {"errors", "headers"},
    "atomic": {"errors"},
    "unfinished": {"errors"},
    "steadfast": {"adapters", "errors"},
    "resume": {"errors"},
    "embedded": {"errors"},
    "gguf": {
        "blockwise",
        "errors",
        "gguf_attention",
        "gguf_header",
        "heap",
        "linear",
        "pages",
        "quantizer",
        "upstream",
    },
    "gguf_attention": {"errors", "gguf_header"},
    "gguf_header": set(),
    "adapters": {"blockwise", "errors", "product", "stored", "upstream"},
    "checkpoint": {"errors", "seal"},
    "probes": {"checkpoint", "errors", "pooling"},
    "recipe": set(),
    "recipe.shapes": {"errors", "upstream"},
    "recipe.published": {"errors", "recipe.shapes"},
    "recipe.units": {"errors"},
    "presets": set(),
    "freezing": {"checkpoint", "errors", "recipe.shapes"},
    "recipe.cost": {"errors", "recipe.shapes"},
    "recipe.tables": set(),
    "recipe.runs_table": {"errors"},
    "recipe.grid": {"errors", "options", "recipe.runs_table", "recipe.units", "settings"},
    "recipe.trials": {
        "errors",
        "recipe.cost",
        "recipe.grid",
        "recipe.runs_table",
        "recipe.shapes",
        "recipe.units",
        "settings",
    },
    "recipe.workers": {"errors"},
    "recipe.forms": set(),
    "recipe.regression": {"recipe.forms"},
    "recipe.law": {"errors", "recipe.forms"},
    "recipe.law_curves": {"recipe.cost", "recipe.forms", "recipe.law", "recipe.optimum"},
    "recipe.held_out": {"recipe.forms", "recipe.law", "recipe.regression"},
    "recipe.determinacy": {"recipe.forms", "recipe.law"},
    "recipe.isoflop": {"recipe.forms"},
    "recipe.gpus": {"errors"},
    "recipe.budget": {"errors", "recipe.gpus", "recipe.units"},
    "recipe.paper": {"recipe.shapes"},
    "recipe.family": {"errors", "recipe.published", "recipe.shapes"},
    "recipe.proposal": {
        "errors",
        "presets",
        "recipe.activations",
        "recipe.bill",
        "recipe.budget",
        "recipe.cost",
        "recipe.family",
        "recipe.fit",
        "recipe.job",
        "recipe.law",
        "recipe.memory",
        "recipe.shapes",
        "recipe.units",
    },
    "recipe.optimum": {"errors", "recipe.cost", "recipe.forms", "recipe.law"},
    "canvas": {"atomic", "errors"},
    "turns": set(),
    "corpus": set(),
    "corpus.options": {"errors", "options"},
    "locks": {"errors"},
    "corpus.files": {"atomic", "errors", "locks"},
    "corpus.rows": {"errors", "nli", "sources"},
    "corpus.precision": {"corpus.options", "errors"},
    "corpus.shards": {"corpus.files", "corpus.options", "corpus.rows"},
    "corpus.pool": set(),
    "corpus.progress": set(),
    "text_encoder": {"checkpoint", "errors", "models"},
    "corpus.encoder": {"corpus.options", "models", "text_encoder"},
    "leaderboard": set(),
    "leaderboard.metadata": {
        "checkpoint",
        "embedded",
        "errors",
        "models",
        "options",
        "stored",
        "sts",
        "text_encoder",
    },
    "leaderboard.tasks": {"errors", "leaderboard.metadata", "sts"},
    "leaderboard.results": {"atomic", "errors"},
    "export": set(),
    "export.options": {"errors", "options"},
    "export.saved": {"checkpoint", "embedded", "errors", "folder", "loading", "quantizer", "unfinished"},
    "export.low_rank": {"checkpoint", "errors", "folder"},
    "export.folding": {
        "blockwise",
        "checkpoint",
        "errors",
        "export.low_rank",
        "linear",
        "pages",
        "quantizer",
        "stored",
    },
    "export.shards": {"errors", "export.folding", "folder"},
    "export.plain": {"export.saved", "folder", "unfinished"},
    "export.fidelity": {"errors", "pages", "probes"},
    "export.merged": {
        "adapters",
        "bloom",
        "export.fidelity",
        "export.folding",
        "export.low_rank",
        "export.plain",
        "export.saved",
        "export.shards",
        "gguf",
        "loading",
        "probes",
    },
}
MODULES = {"blockwise", "linear", "quantizer", "attention", "bloom", "adapters", "checkpoint", "transformer", "pooling"}
"""The files that make up a model: data and scores know nothing of them."""
TEXT = {".py", ".md", ".json", ".jsonl", ".yaml", ".yml", ".toml"}
DATA_SIDE = ("data", "sources", "nli", "sts", "grammar", "lexicon", "surface", "report", "plots", "options", "settings")


def imports(tree: ast.AST, *, inside_functions: bool) -> Iterator[str]:
    """Full dotted names that a file imports; `if TYPE_CHECKING` does not count, as it imports nothing."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, inside_functions=inside_functions)


def ours(name: str, *, inside_functions: bool) -> set[str]:
    """Names of the package's files that file `name` imports."""
    found = imports(ast.parse(FILES[name].read_text(encoding="utf-8")), inside_functions=inside_functions)
    parts = (full.split(".")[1:] for full in found if full.startswith("lacos_st."))
    names = (inner if (inner := ".".join(part[:2])) in FILES else part[0] for part in parts)
    return {found for found in names if found in FILES}


def test_every_folder_of_code_is_known() -> None:
    assert set(FOLDERS) == {path.parent.name for path in ROOT.glob("*/*.py")}
    assert {path for path in ROOT.rglob("*.py")} == set(FILES.values())


def test_the_rules_name_files_that_exist() -> None:
    assert set(ALLOWED) | MODULES | set(DATA_SIDE) <= set(FILES)


@pytest.mark.parametrize("name", ALLOWED)
def test_the_core_imports_one_way(name: str) -> None:
    assert ours(name, inside_functions=True) <= ALLOWED[name]


@pytest.mark.parametrize("name", [name for name in FILES if name.partition(".")[0] == "recipe"])
def test_the_recipe_knows_nothing_of_the_modules(name: str) -> None:
    assert not ours(name, inside_functions=True) & (MODULES | {"loading"})


@pytest.mark.parametrize("name", DATA_SIDE)
def test_data_and_scores_know_nothing_of_the_modules(name: str) -> None:
    assert not ours(name, inside_functions=True) & MODULES


def test_no_circles() -> None:
    waiting = {name: ours(name, inside_functions=True) - {name} for name in FILES if name != "__init__"}
    while free := {name for name, needs in waiting.items() if not needs & set(waiting)}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert not waiting, f"these import each other in a circle, or need one that does: {sorted(waiting)}"


def test_the_command_line_imports_nothing_heavy_itself() -> None:
    reached, todo = set(), {"__init__", "cli"}
    while todo:
        name = todo.pop()
        reached.add(name)
        todo |= ours(name, inside_functions=False) - reached
    for name in reached:
        tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
        heavy = {full.split(".")[0] for full in imports(tree, inside_functions=False)} & HEAVY
        assert not heavy, f"cli imports {name} at its top, and {name} imports {sorted(heavy)}"


@pytest.mark.parametrize("name", lacos_st.__all__)
def test_what_is_exported_exists_and_is_documented(name: str) -> None:
    documented = inspect.getdoc(getattr(lacos_st, name))
    assert documented is not None
    assert len(documented) > 20


def test_exports_are_sorted_and_complete() -> None:
    assert sorted(lacos_st.__all__) == sorted(set(lacos_st.__all__))
    tree = ast.parse(FILES["registration"].read_text(encoding="utf-8"))
    imported = {
        full.rsplit(".", 1)[1]
        for full in imports(tree, inside_functions=False)
        if full.startswith("lacos_st.") and not full.startswith(("lacos_st.upstream.", "lacos_st.hush"))
    }
    assert imported == set(lacos_st.__all__)
    shown = next(
        node for node in ast.parse(FILES["__init__"].read_text(encoding="utf-8")).body if isinstance(node, ast.If)
    )
    assert "TYPE_CHECKING" in ast.unparse(shown.test)
    names = {full.rsplit(".", 1)[1] for full in imports(ast.Module(shown.body, []), inside_functions=False)}
    assert names == imported, "type checkers see other names than there are"


@pytest.mark.parametrize("name", FILES)
def test_files_are_short_and_clean(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES, "one idea per file: split it"
    tree = ast.parse(text)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert name == "cli" or name.startswith("commands.") or "print" not in calls, "the library logs; commands print"
    assert ast.get_docstring(tree), "a file says what its idea is"


def test_no_path_of_one_machine() -> None:
    repository = ROOT.parent
    folders = ("lacos_st", "tests", "benchmarks", "examples", "docs")
    files = [path for folder in folders for path in (repository / folder).rglob("*") if path.suffix in TEXT]
    files += [
        repository / name for name in ("README.md", "pyproject.toml", "Makefile") if (repository / name).is_file()
    ]
    homes = [str(p) for p in (repository.parent / "shared", repository, Path.home()) if len(p.parts) > 1]
    here = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, homes))})/")
    found = [str(path.relative_to(repository)) for path in files if here.search(path.read_text(encoding="utf-8"))]
    assert not found
