"""Sphinx settings, and the pages that are made from the code: commands, registries, changes, notebooks."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import wsikit.cli

DOCS = Path(__file__).resolve().parent
GENERATED = DOCS / "generated"

project = "wsikit"
author = "the wsikit contributors"
version = release = wsikit.__version__
html_theme = "furo"
html_title = f"wsikit {version}"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["changes", "_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "deflist"]
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS.parent / "build" / "notebook-cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes in the class's own text, not a second description of each field


def keep_returns_whole(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Types stand in the signatures: keep Napoleon from taking "The mask: ..." under Returns for a type."""
    for heading, text in zip(lines, range(1, len(lines)), strict=False):
        if heading.strip() == "Returns:" and not lines[text].lstrip().startswith(":"):
            indent = len(lines[text]) - len(lines[text].lstrip())
            lines[text] = f"{lines[text][:indent]}: {lines[text][indent:]}"


def setup(app: object) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", keep_returns_whole, priority=400)  # type: ignore[attr-defined]


def table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def names_page() -> str:
    """What every registry knows. A new file in its folder is a new row here."""
    from wsikit.aggregators.registry import AGGREGATORS
    from wsikit.encoders.registry import ENCODERS, FAMILIES
    from wsikit.slides.base import READERS
    from wsikit.slides.tissue_mask import SEGMENTERS

    encoders = [
        (f"`{c.name}`", c.dim, c.mpp or "any", c.licence, "yes" if c.gated else "", c.summary, c.citation)
        for c in ENCODERS.cards()
    ]
    families = [(f"`{c.name}:NAME`", c.summary) for c in FAMILIES.cards()]
    tissue = [(f"`{c.name}`", c.summary, f"{c.mpp:g} µm per pixel", c.reference) for c in SEGMENTERS.cards()]
    readers = [
        (f"`{c.name}`", c.formats, c.source, c.licence) for c in sorted(READERS.cards(), key=lambda c: c.priority)
    ]
    aggregators = [
        (f"`{c.name}`", c.summary, options_of(AGGREGATORS[c.name].build), c.paper, c.repository, c.licence)
        for c in AGGREGATORS.cards()
    ]
    return "\n".join([
        "# Names\n\nEncoders, tissue methods and readers, as `wsikit models` lists them, and aggregators.\n",
        "## Tile encoders\n\nFor `--encoder` and {func}`wsikit.create_encoder`.\n",
        table(("name", "width", "mpp", "licence", "gated", "what", "citation"), encoders),
        "### Families\n",
        table(("name", "what"), families),
        "## Tissue methods\n\nFor `--tissue` and {func}`wsikit.segment_tissue`.\n",
        table(("name", "what", "works at", "reference"), tissue),
        "## Slide readers\n\nIn the order in which {func}`wsikit.open_slide` tries them.\n",
        table(("name", "formats", "library", "licence"), readers),
        "## Aggregators\n\nFor `model: {aggregator: ...}` and {func}`wsikit.create_aggregator`.\n",
        table(("name", "what", "options", "paper", "repository", "its licence"), aggregators),
    ])  # fmt: skip


def options_of(build: Callable[..., object]) -> str:
    """Options of an aggregator with their defaults: the keyword-only parameters. Training fills in ``classes``."""
    parameters = [p for p in inspect.signature(build).parameters.values() if p.name != "classes"]
    return ", ".join(f"`{p.name}: {plain(p.default)}`" for p in parameters if p.kind is p.KEYWORD_ONLY)


def plain(value: object) -> str:
    """A value as YAML has it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def settings_page() -> str:
    """Every setting of a cross-validation: defaults from the models, words from their docstrings."""
    from dataclasses import fields

    from wsikit.cohort.endpoints import ClassLabel, Continuous, Survival
    from wsikit.evaluation.settings import EvaluationSettings, Experiment, SplitSettings
    from wsikit.evaluation.tuning.settings import TuneSettings
    from wsikit.training.logs import LogSettings
    from wsikit.training.settings import ModelSettings, TrainingSettings

    parts = [
        "# Settings of a cross-validation\n\nThe YAML file of `wsikit crossval`. Paths are relative to the file. "
        "An unknown setting is an error. The options of each aggregator are on the page [Names](names.md).\n"
    ]
    sections = {"": Experiment, "model": ModelSettings, "training": TrainingSettings,
                "splits": SplitSettings, "evaluation": EvaluationSettings, "tune": TuneSettings,
                "log": LogSettings}  # fmt: skip
    for section, model in sections.items():
        said = described(model)
        rows = []
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            value = (
                "required" if field.is_required() else f"[see below](#{name})" if name in sections else plain(default)
            )
            rows.append((f"`{name}`", value if value[0] in "r[" else f"`{value}`", said[name]))
        parts += [f"## {section or 'At the top'}\n", table(("setting", "default", "what"), rows)]
    parts.append("## endpoint\n")
    for kind in (ClassLabel, Survival, Continuous):
        said = described(kind)
        rows = [(f"`{f.name}`", said.get(f.name, "Its name.")) for f in fields(kind)]
        parts += [f"### kind: {kind.kind}\n", table(("setting", "what"), rows)]
    return "\n".join(parts)


def described(model: type) -> dict[str, str]:
    """What a class's docstring says of each attribute or argument."""
    section = re.search(r"\n(?:Attributes|Args):\n((?: {4}.*\n?|\n)+)", inspect.getdoc(model) or "")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def commands_page() -> str:
    """The help text of every command, as a terminal of 100 columns shows it."""

    def help_of(*command: str) -> str:
        environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
        start = "import sys; sys.argv[0] = 'wsikit'; from wsikit.cli.main import main; main()"
        asked = [sys.executable, "-c", start, *command, "--help"]
        done = subprocess.run(asked, env=environment, capture_output=True, check=True, encoding="utf-8")
        return f"```text\n{done.stdout.strip()}\n```\n"

    names = sorted(p.stem for p in Path(wsikit.cli.__path__[0]).glob("[a-z]*.py") if p.stem != "main")
    parts = ["# Commands\n", "## wsikit\n", help_of()]
    for name in (n.removesuffix("_") for n in names):
        parts += [f"## wsikit {name}\n", help_of(name)]
    return "\n".join(parts)


def changes_page() -> str:
    """CHANGELOG.md, with the notes in docs/changes as what comes next."""
    released = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = [released.split("\n## ", 1)[0], "## Not released yet\n"]
    for kind, title in (("feature", "Features"), ("fix", "Fixes"), ("removal", "Removals")):
        notes = sorted((DOCS / "changes").glob(f"*.{kind}.md"))
        if notes:
            parts += [f"### {title}\n", *("- " + n.read_text("utf-8").strip().replace("\n", "\n  ") for n in notes), ""]
    older = released.partition("\n## ")[2]
    return "\n".join(parts) + (f"\n## {older}" if older else "")


def tutorials_page(notebooks: Iterable[str]) -> str:
    """The notebooks in their order."""
    return "\n".join([
        "# Tutorials\n",
        "Each is a notebook in the folder `notebooks/` of the repository; the test suite executes them.\n",
        "```{toctree}", *(f"notebooks/{name}" for name in notebooks), "```\n",
    ])  # fmt: skip


def write_if_new(path: Path, text: str) -> None:
    """Write a page unless it is there already: an unchanged page is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


write_if_new(GENERATED / "names.md", names_page())
write_if_new(GENERATED / "commands.md", commands_page())
write_if_new(GENERATED / "settings.md", settings_page())
write_if_new(GENERATED / "changes.md", changes_page())
notebooks = sorted((DOCS.parent / "notebooks").glob("*.ipynb"))
write_if_new(GENERATED / "tutorials.md", tutorials_page(path.stem for path in notebooks))
shutil.rmtree(GENERATED / "notebooks", ignore_errors=True)
(GENERATED / "notebooks").mkdir()
for path in notebooks:
    shutil.copy2(path, GENERATED / "notebooks")
