"""Checks that the pages agree with the code and the measurements: `python docs/check.py`; `--fill` repairs them.

A quotation names its source and equals it:                 ```python title="src/boxwright/FILE.py: Class.method"
A table of measurements is made from docs/learn/numbers.json, docs/benchmarks.json, which `make bench` writes, or
docs/equal_terms.json, which benchmarks/equal_terms.py writes:
                                                            <!-- numbers TABLE "ROW" ... -->  ...  <!-- end -->
A link points to an existing file, and every file in docs/learn/images is shown. (Zensical checks #anchors.)
The pages that docs/reference.py writes have a docstring for every public name, and a help for every option.

A dotted name leads through classes and functions to one of them or to an assignment; commas separate several names.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NUMBERS = tuple(DOCS / name for name in ("learn/numbers.json", "benchmarks.json", "equal_terms.json"))
REFERENCE = tuple(DOCS / "reference" / name for name in ("commands.md", "python.md"))
"""Pages of docs/reference.py. They are not committed, so they may not exist yet."""

QUOTE = re.compile(r'^```python title="(?P<source>[^":]+): (?P<names>[^"]+)"\n(?P<code>.*?)^```$', re.M | re.S)
TABLE = re.compile(r"^<!-- numbers (?P<arguments>[^>]*?) -->\n(?P<table>.*?)^<!-- end -->$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.M | re.S)


def quotation(text: str, names: str) -> str:
    """The dedented lines of `names` in the source `text`, a blank line between them. LookupError if one is missing."""
    parts = (_lines(text, name.strip()) for name in names.split(","))
    return "\n\n".join(parts) + "\n"


def _lines(text: str, dotted: str) -> str:
    node: ast.AST = ast.parse(text)
    for name in dotted.split("."):
        matches = [child for child in _statements(node) if name in _names(child)]
        if not matches:
            raise LookupError(f"there is no {name!r} of {dotted!r}")
        node = matches[0]
    assert isinstance(node, ast.stmt)
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements below a node, without those inside nested functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
            if not isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from _statements(child)


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [ast.unparse(target) for target in targets]


def measurements() -> dict:
    """All tables, by name."""
    return {name: table for path in NUMBERS for name, table in json.loads(path.read_text(encoding="utf-8")).items()}


def table(numbers: Mapping, name: str, rows: Sequence[str]) -> str:
    """A table of `measurements` in Markdown, with the given `rows` or all. Null or absent cells were not measured.

    LookupError if there is no such table or row.
    """
    if name not in numbers:
        files = " and ".join(path.name for path in NUMBERS)
        raise LookupError(f"{files} have no table {name!r}; they have {', '.join(numbers)}")
    columns, measured = numbers[name]["columns"], numbers[name]["rows"]
    if unknown := [row for row in rows if row not in measured]:
        raise LookupError(f"table {name!r} has no row {', '.join(unknown)}; it has {', '.join(measured)}")
    lines = [["", *columns.values()], ["---", *["---:"] * len(columns)]]
    for row in rows or measured:
        cells = [measured[row].get(column) for column in columns]
        lines.append([row, *("" if cell is None else str(cell) for cell in cells)])
    if not any(cell for line in lines[2:] for cell in line[1:]):
        return "Not measured yet.\n"
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{numbers[name]['how']}\n"


def fill(text: str, numbers: Mapping) -> str:
    """The page with correct quotations and tables. LookupError names a missing source."""

    def quoted(match: re.Match) -> str:
        source = ROOT / match["source"]
        if not source.is_file():
            raise LookupError(f"there is no file {match['source']}")
        try:
            code = quotation(source.read_text(encoding="utf-8"), match["names"])
        except LookupError as error:
            raise LookupError(f"{match['source']}: {error.args[0]}") from None
        return f'```python title="{match["source"]}: {match["names"]}"\n{code}```'

    def tabled(match: re.Match) -> str:
        name, *rows = shlex.split(match["arguments"])
        return f"<!-- numbers {match['arguments']} -->\n\n{table(numbers, name, rows)}\n<!-- end -->"

    return TABLE.sub(tabled, QUOTE.sub(quoted, text))


def pages() -> list[Path]:
    """Every page of the site that is written by hand."""
    return sorted(page for page in DOCS.rglob("*.md") if page not in REFERENCE)


def check(page: Path, numbers: Mapping) -> Iterator[str]:
    """One sentence for each problem of a page."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT)
    for pattern in (QUOTE, TABLE):
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            try:
                if fill(match[0], numbers) != match[0]:
                    yield f"{name}:{line} differs from its source; to repair it: python docs/check.py --fill"
            except LookupError as error:
                yield f"{name}:{line} {error.args[0]}"
    for opening, pattern in (("```python title=", QUOTE), ("<!-- numbers", TABLE)):
        if text.count(opening) != len(pattern.findall(text)):
            yield f"{name} has a {opening!r} that is not closed or not written as docs/check.py describes it"
    for link in links(text):
        path = link.partition("#")[0]
        target = (page.parent / path).resolve()
        if path and not target.exists() and target not in REFERENCE:
            yield f"{name} links to {link}, and there is no such file"


def links(text: str) -> list[str]:
    """The targets of a page's links and images, without web addresses and those in code."""
    targets = [match["target"] for match in LINK.finditer(FENCE.sub("", text))]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def unused_images() -> Iterator[str]:
    """Images that no page shows."""
    shown = {(page.parent / link).resolve() for page in pages() for link in links(page.read_text(encoding="utf-8"))}
    for image in sorted((DOCS / "learn" / "images").iterdir()):
        if image.resolve() not in shown:
            yield f"{image.relative_to(ROOT)} is shown on no page"


def main(arguments: Sequence[str]) -> int:
    numbers = measurements()
    if "--fill" in arguments:
        for page in pages():
            text = page.read_text(encoding="utf-8")
            try:
                filled = fill(text, numbers)
            except LookupError:
                continue  # the check below reports it
            if filled != text:
                page.write_text(filled, encoding="utf-8")
                print(f"filled {page.relative_to(ROOT)}")
    import reference  # here, because it imports the package, and beside this file

    problems = [problem for page in pages() for problem in check(page, numbers)] + list(unused_images())
    problems += reference.undocumented()
    print("\n".join(problems) or f"{len(pages())} pages: quotations, tables and links are correct")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
