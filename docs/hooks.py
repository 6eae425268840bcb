"""What MkDocs needs to show the repository as it stands, and its commands.

Pages link to files beside ``docs/``, as a reader of the repository wants it. For the site each such
file becomes a page below ``repository/``, Markdown as it is and source as a block of code, and the
links are bent there. The reference of the command line is written by the commands themselves.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from typer.main import get_command

from xrouter_lg.cli import app

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?(\))")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|exc):<code>~?([\w.]+)</code>")
_COMMANDS = "<!-- the commands -->"
_SHELL = ("install_completion", "show_completion")
_FENCES = {".py": "python", ".yaml": "yaml", ".json": "json", ".toml": "toml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page names, and that those name."""
    named = {f"docs/{file.src_uri}" for file in files if file.is_documentation_page()}
    waiting, known = sorted(named), set(named)
    while waiting:
        page = waiting.pop()
        for target in _targets(page):
            if target not in known and not target.startswith("docs/"):
                known.add(target)
                files.append(_page(target, config))
                if target.endswith(".md"):
                    waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Bend links between the two worlds: what is beside ``docs/`` has moved below it."""
    here = PurePosixPath(page.file.src_uri)
    source = _in_repository(here)

    def bent(found: re.Match[str]) -> str:
        target = _resolved(source, found[2])
        if not (ROOT / target).is_file():
            return found[0]
        there = os.path.relpath(_in_site(target), str(here.parent))
        return f"{found[1]}{there}{found[3] or ''}{found[4]}"

    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, "\n".join(command_reference()))
    return _LINK.sub(bent, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name each other by Sphinx' roles; here the last part of the name is enough."""
    return _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)


def command_reference() -> Iterator[str]:
    """Every command with its help, its options and its examples, as Markdown."""
    root: Any = get_command(app)
    with root.make_context("xrouter", [], resilient_parsing=True) as context:
        for name in root.list_commands(context):
            _, command, _ = root.resolve_command(context, [name])
            yield from _command(f"xrouter {name}", command, context)


def _command(title: str, command: Any, parent: Any) -> Iterator[str]:
    yield f"\n## {title}\n" if title.count(" ") == 1 else f"\n### {title}\n"
    yield re.sub(r"\s*\x08\s*", "\n\n", inspect.cleandoc(command.help or ""))
    with command.make_context(title, [], parent=parent, resilient_parsing=True) as context:
        inner = getattr(command, "commands", {})
        options = [] if inner else [p for p in command.params if p.name not in _SHELL]
        rows = [row for option in options if (row := option.get_help_record(context))]
        if rows:
            yield "\n| option | |\n|---|---|"
            for names, told in rows:
                yield f"| `{names}` | {told.replace('|', '/')} |"
        if command.epilog:
            yield f"\n```text\n{inspect.cleandoc(command.epilog)}\n```"
        for name, one in inner.items():
            yield from _command(f"{title} {name}", one, context)


def _targets(page: str) -> Iterator[str]:
    for found in _LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
        target = _resolved(PurePosixPath(page), found[2])
        if (ROOT / target).is_file():
            yield target


def _resolved(source: PurePosixPath, link: str) -> str:
    return os.path.normpath(source.parent / link)


def _in_site(target: str) -> str:
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"repository/{target}" + ("" if target.endswith(".md") else ".md")


def _in_repository(page: PurePosixPath) -> PurePosixPath:
    if page.parts[0] != "repository":
        return PurePosixPath("docs") / page
    beside = PurePosixPath(*page.parts[1:])
    return beside if (ROOT / beside).is_file() else beside.with_suffix("")


def _page(target: str, config: MkDocsConfig) -> File:
    text = (ROOT / target).read_text(encoding="utf-8")
    if not target.endswith(".md"):
        fence = _FENCES.get(Path(target).suffix, "text")
        text = f"# {target}\n\n````{fence}\n{text}\n````\n"
    page = File.generated(config, _in_site(target), content=text)
    page.inclusion = InclusionLevel.NOT_IN_NAV
    return page
