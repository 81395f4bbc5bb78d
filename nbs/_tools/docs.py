"""Build the documentation site into _docs/, offline: `make docs`.

Written pages are in nbs/docs/; notebooks are pages as they are, with the outputs that they keep; pages per target,
per error and the list of public names by package are made from the library itself. Then every link of the built
site is followed, and a page that asks an outside host is refused.
"""

import html.parser
import inspect
import os
import re
import shutil
import subprocess
import sys
import typing
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

from execnb.nbio import read_nb, write_nb
from runner import directives

ROOT = Path(__file__).resolve().parents[2]
SOURCE, SITE = ROOT / ".site_src", ROOT / "_docs"
HIDDEN = {"hide", "default_exp", "exporti"}
LONGEST_VALUE = 90  # characters of a constant that an API page shows
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.S)
OUTSIDE_IMPORT = re.compile(r"\bimport\(\s*['\"]https?:")
NAVIGATION = [  # title, page or folder of written pages
    ("Getting started", "docs/getting_started.md"),
    ("How-to guides", "docs/how_to"),
    ("Manual", "docs/manual"),
    ("Contract", "docs/contract.md"),
    ("Glossary", "docs/glossary.md"),
    ("Contributing", "docs/contributing"),
]
OFFLINE = """
site_name: StreamForge
docs_dir: .site_src
site_dir: _docs
use_directory_urls: false
strict: true
theme:
  name: material
  font: false
  features: [navigation.tabs, navigation.indexes, navigation.top, content.code.copy]
  palette:
    - media: "(prefers-color-scheme: light)"
      scheme: default
      primary: indigo
      toggle: {icon: material/weather-night, name: Dark}
    - media: "(prefers-color-scheme: dark)"
      scheme: slate
      primary: indigo
      toggle: {icon: material/weather-sunny, name: Light}
plugins:
  - search
  - mkdocs-jupyter: {include_requirejs: false, ignore_h1_titles: true, execute: false, show_input: true}
markdown_extensions: [tables, toc, admonition, pymdownx.highlight, pymdownx.superfences]
validation: {links: {not_found: warn, unrecognized_links: warn, anchors: warn}}
"""


def title_of(notebook: Path) -> str:
    "The heading of a notebook."
    first = read_nb(notebook).cells[0].source
    return first.splitlines()[0].removeprefix("# ").strip()


def sentence_of(notebook: Path) -> str:
    "The sentence below the heading of a notebook."
    lines = read_nb(notebook).cells[0].source.splitlines()
    return " ".join(line.removeprefix("> ").strip() for line in lines[1:] if line.startswith(">"))


def notebooks() -> list[Path]:
    "Every notebook of the library, in order of reading."
    paths = (ROOT / "nbs").rglob("[0-9][0-9]_*.ipynb")
    return sorted(path for path in paths if ".ipynb_checkpoints" not in path.parts)


def copy_notebook(path: Path) -> None:
    "Write a notebook without its hidden cells and without nbdev's directives."
    notebook = read_nb(path)
    notebook.cells = [
        cell for cell in notebook.cells if not (cell.cell_type == "code" and HIDDEN & directives(cell).keys())
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    target = SOURCE / path.relative_to(ROOT / "nbs")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(notebook, target)


def module_of(notebook: Path) -> str:
    "`streamforge.bus.kafka.config` of nbs/20_bus/kafka/01_config.ipynb."
    parts = [re.sub(r"^\d+_", "", part) for part in notebook.relative_to(ROOT / "nbs").with_suffix("").parts]
    return ".".join(["streamforge", *parts])


def signature_of(name: str, thing: object) -> str:
    "A name with its signature, as one would type it."
    try:
        return f"{name}{inspect.signature(thing)}" if callable(thing) else name
    except (TypeError, ValueError):
        return name


def first_paragraph(thing: object) -> str:
    "The summary of a docstring, as one line."
    text = inspect.getdoc(thing) or ""
    return " ".join(text.split("\n\n")[0].split())


def own_names(module_name: str) -> tuple[list[tuple[str, object]], list[tuple[str, object]]]:
    "What a module defines, in its own order: public functions and classes; public constants and aliases of types."
    module = import_module(module_name)
    named = [(name, getattr(module, name)) for name in getattr(module, "__all__", [])]
    callables = [
        (name, thing) for name, thing in named if callable(thing) and getattr(thing, "__module__", "") == module_name
    ]
    return callables, [pair for pair in named if pair not in callables]


def value_of(thing: object) -> str:
    "The value of a constant as one would type it; empty if that is long or differs from machine to machine."
    if isinstance(thing, Path):
        return ""
    if inspect.isclass(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    in_order = "{" + ", ".join(sorted(map(repr, thing))) + "}" if isinstance(thing, (set, frozenset)) else ""
    text = in_order or repr(thing)
    return "" if len(text) > LONGEST_VALUE or "\n" in text or " at 0x" in text else text


def members_of(cls: type) -> list[str]:
    "One list item for each public method (also static or of the class) and property that a class defines."
    items = []
    for name, raw in vars(cls).items():
        if name[0] == "_":
            continue
        part = next((part for part in ("__func__", "fget", "func") if hasattr(raw, part)), None)
        function = getattr(raw, part) if part else raw
        if not inspect.isroutine(function):
            continue
        if part in ("fget", "func"):
            items.append(f"- `.{name}` (property): {first_paragraph(function)}")
        else:
            kind = {classmethod: " (of the class)", staticmethod: " (static)"}.get(type(raw), "")
            items.append(f"- `.{signature_of(name, getattr(cls, name))}`{kind}: {first_paragraph(function)}")
    return items


def api_page(package: str, members: list[Path]) -> str:
    "Every public name of one package: functions and classes with signature and summary, constants with their value."
    lines = [f"# {package}", ""]
    for notebook in members:
        module = module_of(notebook)
        page = os.path.relpath(SOURCE / notebook.relative_to(ROOT / "nbs"), SOURCE / "api")
        lines += [
            f"## {module.removeprefix('streamforge.')}",
            "",
            f"{sentence_of(notebook)} [Read the notebook]({page}).",
            "",
        ]
        callables, constants = own_names(module)
        for name, thing in callables:
            kind = "class" if inspect.isclass(thing) else "def"
            lines += [
                f"### {name}",
                "",
                "```python",
                f"{kind} {signature_of(name, thing)}",
                "```",
                "",
                first_paragraph(thing),
                "",
            ]
            if inspect.isclass(thing) and not issubclass(thing, BaseException):
                lines += [*members_of(thing), ""]
        if constants:
            values = [(name, value_of(thing)) for name, thing in constants]
            lines += ["Constants and aliases:", ""]
            lines += [f"- `{name} = {value}`" if value else f"- `{name}`" for name, value in values]
            lines.append("")
    return "\n".join(lines)


def table(head: typing.Sequence[str], rows: typing.Iterable[typing.Sequence[object]]) -> list[str]:
    "A Markdown table; vertical bars are escaped, and angle brackets outside of code."

    def cell(value: object) -> str:
        parts = str(value).replace("|", "\\|").replace("\n", " ").split("`")
        return "`".join(part if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))

    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(map(cell, row))} |" for row in rows),
        "",
    ]


def target_page(described: dict) -> str:
    "One target: what it reads and writes, its types, its parameters."
    lines = [
        f"# {described['target']}",
        "",
        described["help"][:1].upper() + described["help"][1:] + ".",
        "",
        "## Reads and writes",
        "",
    ]
    rows = [
        (direction, kind, ", ".join(f"`{name}`" for name in names))
        for direction in ("reads", "writes")
        for kind, names in described[direction].items()
        if names
    ]
    lines += table(("", "what", "names"), rows) if rows else ["Nothing.", ""]
    lines += [
        f"It takes {described['slots']} of a slot: the manager starts as many workers as it has slots.",
        "",
        "## Types",
        "",
    ]
    kinds = [
        (f"`{row['type']}`", "endless" if row["endless"] else "ends by itself", ", ".join(row["needs"]) or "–")
        for row in described["types"]
    ]
    lines += table(("type", "how long", "needs"), kinds) if kinds else ["Any.", ""]
    lines += [
        "## Parameters",
        "",
        "In a request, in the environment of a worker started by hand, and in `streamforge worker`'s help.",
        "",
    ]
    parameters = []
    for row in described["parameters"]:
        bounds = [f"at least {row['minimum']:g}"] if "minimum" in row else []
        bounds += [f"above {row['above']:g}"] if "above" in row else []
        bounds += [f"at most {row['maximum']:g}"] if "maximum" in row else []
        bounds += [" ".join(map(str, row["choices"]))] if row.get("choices") else []
        only = " (environment only)" if row.get("environment_only") else ""
        default = "" if row["default"] in (None, "", ()) else f"`{row['default']}`"
        parameters.append((f"`{row['name']}`", row["type"], ", ".join(bounds), default, row["help"] + only))
    return "\n".join([*lines, *table(("name", "type", "bounds", "default", "meaning"), parameters)])


def errors_page() -> str:
    "The tree of errors with exit codes and HTTP statuses."
    from streamforge.core import errors

    return "\n".join(["# Errors", "", inspect.getdoc(errors.StreamForgeError) or "", ""])


def write(page: str, text: str) -> None:
    "Write one page of the source of the site."
    path = SOURCE / page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def rewritten(text: str, old: Path, new: Path) -> str:
    "Markdown with its relative links turned from their place in the repository to their place in the site."

    def turned(match: re.Match) -> str:
        link, _, anchor = match[2].partition("#")
        if not link or "://" in link or link.startswith("mailto:"):
            return match[0]
        target = Path(os.path.normpath(old.parent / link))
        places = {
            ROOT / "README.md": SOURCE / "index.md",
            ROOT / "CONTRIBUTING.md": SOURCE / "docs/contributing/index.md",
            ROOT / "CHANGELOG.md": SOURCE / "changelog.md",
        }
        if target in places:
            place = places[target]
        elif target == ROOT / "nbs" / "index.ipynb":
            place = SOURCE / "tour.ipynb"
        elif target.is_relative_to(ROOT / "nbs"):
            place = SOURCE / target.relative_to(ROOT / "nbs")
        else:
            return match[1] if not match[0].startswith("!") else match[0]
        return f"[{match[1]}]({os.path.relpath(place, new.parent)}{'#' + anchor if anchor else ''})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", turned, text)


def linked(text: str, notebook: Path) -> str:
    "Markdown of a notebook of the site with its links to notebooks turned to their pages, whose ids are lower-case."

    def page_link(match: re.Match) -> str:
        words, target, anchor = match[1], match[2], (match[3] or "").lower()
        if target and not Path(os.path.normpath(notebook.parent / target)).is_relative_to(SOURCE):
            return words  # a notebook that is no page of the site, such as those of pipelines/
        folder, _, name = target.rpartition("/")
        name = "tour.html" if name == "index.ipynb" else name.replace(".ipynb", ".html")
        return f"[{words}]({folder + '/' if folder else ''}{name}{anchor})"

    return re.sub(r"\[([^\]]*)\]\((?=#|[^):#\s]+\.ipynb)([^):#\s]*)(#[^)\s]*)?\)", page_link, text)


def prepare() -> str:
    "Write the source of the site; its configuration."
    import yaml

    from streamforge.workers.targets import TARGETS, describe_target

    shutil.rmtree(SOURCE, ignore_errors=True)
    for path in [ROOT / "nbs" / "index.ipynb", *notebooks()]:
        copy_notebook(path)
    (SOURCE / "index.ipynb").rename(SOURCE / "tour.ipynb")
    shutil.copytree(ROOT / "nbs" / "images", SOURCE / "images")
    pages = {
        ROOT / "README.md": "index.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "CONTRIBUTING.md": "docs/contributing/index.md",
    }
    pages |= {path: str(path.relative_to(ROOT / "nbs")) for path in (ROOT / "nbs" / "docs").rglob("*.md")}
    for path, page in pages.items():
        write(page, rewritten(path.read_text(encoding="utf-8"), path, SOURCE / page))

    for path in SOURCE.rglob("*.ipynb"):  # mkdocs turns links of Markdown pages, and leaves those of notebooks alone
        notebook = read_nb(path)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, path)
        write_nb(notebook, path)

    navigation: list = [{"StreamForge": "index.md"}, {"Tour": "tour.ipynb"}]
    for title, place in NAVIGATION:
        if place.endswith(".md"):
            navigation.append({title: place})
        else:
            folder = sorted((SOURCE / place).glob("*.md"), key=lambda page: (page.name != "index.md", page.name))
            navigation.append({title: [str(page.relative_to(SOURCE)) for page in folder]})
    write("docs/manual/errors.md", errors_page())
    next(part for part in navigation if "Manual" in part)["Manual"].append("docs/manual/errors.md")
    for name in TARGETS:
        write(f"targets/{name}.md", target_page(describe_target(name)))
    index = [
        "# Targets",
        "",
        "What a worker can be. One table in the library (`workers/targets`) makes these pages, the manager's checks, "
        "`GET /targets` and the help of the command line.",
        "",
    ]
    index += table(
        ("target", "what it does"), [(f"[{name}]({name}.md)", describe_target(name)["help"]) for name in TARGETS]
    )
    write("targets/index.md", "\n".join(index))
    navigation.append({"Targets": ["targets/index.md", *(f"targets/{name}.md" for name in TARGETS)]})
    packages: dict[str, list[Path]] = {}
    for path in notebooks():
        packages.setdefault(path.relative_to(ROOT / "nbs").parts[0], []).append(path)
    library: list = []
    for folder, members in packages.items():
        package = re.sub(r"^\d+_", "", folder)
        write(f"api/{package}.md", api_page(package, members))
        pages_of = [{title_of(path): str(path.relative_to(ROOT / "nbs"))} for path in members]
        library.append({package: [{"All names": f"api/{package}.md"}, *pages_of]})
    navigation += [{"Library": library}, {"Changes": "changelog.md"}]
    return OFFLINE + yaml.safe_dump({"nav": navigation}, sort_keys=False, width=1_000)


class Links(html.parser.HTMLParser):
    "The links, ids and loaded resources of one page."

    def __init__(self):
        super().__init__()
        self.links, self.ids, self.loaded = [], set(), []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids |= {named[key] for key in ("id", "name") if named.get(key)}
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        elif tag == "link" and named.get("href") and named.get("rel") not in ("canonical",):
            self.loaded.append(named["href"])
        elif named.get("src"):
            self.loaded.append(named["src"])


def names(page: Links, anchor: str) -> bool:
    """Does a page have this place? The table of contents numbers headings of one text; their ids in the page are
    the same."""
    return anchor in page.ids or anchor.startswith("__") or re.sub(r"_\d+$", "", anchor) in page.ids


def remove_outside_scripts() -> None:
    "Take the script that imports mermaid from an outside host out of the notebooks' pages: no page needs it."
    for path in SITE.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        kept = SCRIPT.sub(lambda script: "" if OUTSIDE_IMPORT.search(script[0]) else script[0], text)
        if kept != text:
            path.write_text(kept, encoding="utf-8")


def broken() -> list[str]:
    "Links of the built site that lead nowhere, and resources that an outside host would have to send."
    pages, wrong = {}, []
    for path in SITE.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        pages[path] = Links()
        pages[path].feed(text)
        if OUTSIDE_IMPORT.search(text):
            wrong.append(f"{path.relative_to(SITE)} imports a script from outside")
    for path, page in pages.items():
        here = path.relative_to(SITE)
        wrong += [f"{here} loads {link} from outside" for link in page.loaded if urlsplit(link).netloc]
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("//"):
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = SITE / parts.path.lstrip("/") if parts.path.startswith("/") else target
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{here}: {link} is not there")
            elif parts.fragment and target in pages and not names(pages[target], unquote(parts.fragment)):
                wrong.append(f"{here}: {link} names a place that is not in that page")
    for style in SITE.rglob("*.css"):
        if outside := re.search(r"url\(\s*['\"]?(https?://[^)]+)", style.read_text(encoding="utf-8", errors="replace")):
            wrong.append(f"{style.relative_to(SITE)} loads {outside[1]} from outside")
    return wrong


def main() -> int:
    "Build the site and check it; the exit code."
    configuration = ROOT / ".site.yml"
    configuration.write_text(prepare(), encoding="utf-8")
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "JUPYTER_PLATFORM_DIRS": "1"}
    try:
        built = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "-q", "-f", str(configuration)], cwd=ROOT, env=env
        )
    finally:
        configuration.unlink()
    if built.returncode:
        return built.returncode
    remove_outside_scripts()
    wrong = sorted(set(broken()))
    print("\n".join(wrong[:50]))
    print(f"{len(list(SITE.rglob('*.html')))} pages in {SITE.relative_to(ROOT)}/, {len(wrong)} broken links")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
