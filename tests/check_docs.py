"""Hold the documentation against the code: ``python -m tests.check_docs``.

What can be compared is compared in both directions, so that nothing is documented
that is not there, and nothing is there that is not documented. Prints a line for
each mistake; exit code 1 if there is any.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import orjson

from pipeline.errors import ConfigurationError, Reject
from pipeline.events.catalogue import PUBLIC_TYPES, parse_event
from pipeline.failpoints import NAMES
from pipeline.settings import load_settings
from pipeline.subscriptions import load_subscriptions
from tests import docs_commands, docs_facts, docs_tests, markdown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from tests.markdown import Document

ROOT: Final = Path(__file__).resolve().parents[1]
OPERATIONS: Final = Path("docs/operations.md")
CONTRACT: Final = Path("docs/contract.md")
PROVIDER: Final = Path("docs/provider.md")
RELIABILITY: Final = Path("docs/reliability.md")
#: The tables of what the provider sends, in which every row has a test.
SHAPES: Final = (
    "Failures",
    "Contradictions",
    "Statuses",
    "Names",
    "Bodies",
    "Odd shapes",
    "Flags",
    "Cousins",
    "Submitting",
)

_ELSEWHERE: Final = re.compile(r"[a-z]+:")
_FILE: Final = re.compile(
    r"(?:pipeline|tests|docs|configs|examples|benchmarks|requirements)/[\w./*-]+"
)
_MODULE: Final = re.compile(r"pipeline(?:\.\w+)+")
_METRIC: Final = re.compile(r"\bpipeline_[a-z_]+")
_VARIABLE: Final = re.compile(r"\bPIPELINE_[A-Z0-9_]+")
_MACHINE: Final = re.compile(r"(?<![\w.:/])/(?:work|tmp|home|root|Users|mnt)/")
_SERIES: Final = ("_bucket", "_count", "_sum")
#: Names of files that look like modules.
_NO_MODULES: Final = frozenset({"pipeline.toml"})


def main() -> int:
    """Check everything; return the exit code."""
    documents = [markdown.read(path) for path in sorted(find_files())]
    mistakes = list(check(documents))
    for mistake in mistakes:
        sys.stdout.write(f"{mistake}\n")
    count = len(documents)
    sys.stdout.write(f"{count} documents, {len(mistakes)} mistakes\n")
    return 1 if mistakes else 0


def find_files() -> Iterator[Path]:
    """Give every Markdown file of ours, from the root of the repository."""
    for path in ROOT.glob("**/*.md"):
        relative = path.relative_to(ROOT)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and not {"node_modules", "data", "build"} & {*relative.parts}:
            yield path


def check(documents: Sequence[Document]) -> Iterator[str]:
    """Run every check."""
    by_path = {document.path.relative_to(ROOT): document for document in documents}
    for path, document in by_path.items():
        for line, text in check_document(document, by_path):
            yield f"{path}:{line}: {text}"
    yield from check_operations(by_path[OPERATIONS])
    yield from check_contract(by_path[CONTRACT])
    yield from check_provider(by_path[PROVIDER])
    yield from check_reliability(by_path[RELIABILITY])
    yield from check_commands_are_named(documents)
    yield from check_all_are_linked(by_path)
    yield from check_references_in_code()


def check_document(
    document: Document, by_path: dict[Path, Document]
) -> Iterator[tuple[int, str]]:
    """Check what every document may have."""
    yield from check_links(document, by_path, ROOT)
    yield from check_names(document)
    yield from docs_tests.check_named(document, ROOT)
    yield from check_blocks(document)
    yield from docs_commands.check(document, ROOT / "Makefile")
    for number, line in enumerate(document.text.splitlines(), start=1):
        if names_machine(line):
            yield number, "names a path of one machine"


def names_machine(line: str) -> bool:
    """Tell whether a line names a path that is there on one machine only."""
    return _MACHINE.search(line) is not None


def check_links(
    document: Document, by_path: dict[Path, Document], root: Path
) -> Iterator[tuple[int, str]]:
    """Check that relative links lead to a file, and to a heading in it."""
    for link in document.links:
        if _ELSEWHERE.match(link.text):
            continue
        target, _, anchor = unquote(link.text).partition("#")
        path = document.path
        if target:
            path = (document.path.parent / target).resolve()
        if not path.exists():
            yield link.line, f"link to {link.text}: there is no such file"
        elif anchor:
            other = by_path.get(path.relative_to(root))
            if other is None or anchor not in other.anchors:
                yield link.line, f"link to {link.text}: there is no such heading"


def check_names(document: Document) -> Iterator[tuple[int, str]]:
    """Check files, modules, metrics and variables that are named."""
    for span in document.spans:
        if _FILE.fullmatch(span.text) and not any(ROOT.glob(span.text.rstrip("/"))):
            yield span.line, f"{span.text}: there is no such file"
        if _MODULE.fullmatch(span.text) and not is_known(span.text):
            yield span.line, f"{span.text}: neither a module nor an exchange or queue"
    metrics, variables = docs_facts.metrics(), docs_facts.variables()
    for number, line in enumerate(document.text.splitlines(), start=1):
        for name in _METRIC.findall(line):
            ends = [end for end in _SERIES if name.endswith(end)]
            bare = name.removesuffix(ends[0]) if ends else name
            if name not in metrics and bare not in metrics:
                yield number, f"{name}: there is no such metric"
        for name in _VARIABLE.findall(line):
            if name not in variables:
                yield number, f"{name}: there is no such variable"


def is_known(name: str) -> bool:
    """Tell whether a dotted name is a module, something in one, or on the broker."""
    if name in _NO_MODULES or name in docs_facts.broker_names():
        return True
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


def check_blocks(document: Document) -> Iterator[tuple[int, str]]:
    """Check that configuration loads, that JSON parses, and that events are events."""
    for block in document.fences:
        if block.language == "toml":
            if mistake := wrong_configuration(block.text):
                yield block.line, mistake
        elif block.language == "json":
            try:
                content = orjson.loads(block.text)
            except orjson.JSONDecodeError as error:
                yield block.line, f"JSON: {error}"
                continue
            if isinstance(content, dict) and "specversion" in content:
                for mistake in wrong_event(content):
                    yield block.line, mistake


def wrong_configuration(text: str) -> str:
    """Say what is wrong with settings or with a list of subscriptions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "block.toml")
        path.write_text(text, encoding="utf-8")
        try:
            if "[[subscriptions]]" in text:
                load_subscriptions(path, event_types=PUBLIC_TYPES)
            else:
                load_settings(file=path, environ={})
        except ConfigurationError as error:
            return str(error).replace(str(path), "TOML")
    return ""


def wrong_event(content: dict[str, object]) -> Iterator[str]:
    """Say what an example of an event has too much or too little."""
    try:
        event = parse_event(orjson.dumps(content))
    except Reject as error:
        yield str(error)
        return
    yield from differing_keys(content, orjson.loads(event.model_dump_json()), "event")


def differing_keys(shown: object, real: object, where: str) -> Iterator[str]:
    """Compare the keys of an example with those of the model, all the way down."""
    if isinstance(shown, dict) and isinstance(real, dict):
        if where.endswith("links"):
            return
        for key in sorted(shown.keys() ^ real.keys()):
            fault = "missing" if key in real else "there is no such key"
            yield f"{where}.{key}: {fault}"
        for key in shown.keys() & real.keys():
            yield from differing_keys(shown[key], real[key], f"{where}.{key}")
    elif isinstance(shown, list) and isinstance(real, list):
        for one, other in zip(shown, real, strict=False):
            yield from differing_keys(one, other, f"{where}[]")


def check_operations(document: Document) -> Iterator[str]:
    """Compare settings, metrics and log events with the tables of them."""
    settings = [(row.code(), row.code(1)) for row in document.table("Settings")]
    yield from compare(OPERATIONS, "settings", settings, docs_facts.settings())
    metrics = [
        (row.code(), row.cells[1], row.cells[2].replace("`", ""))
        for row in document.table("Metrics")
    ]
    known = {(name, *facts) for name, facts in docs_facts.metrics().items()}
    yield from compare(OPERATIONS, "metrics", metrics, known)
    events = [(row.code(), row.cells[1]) for row in document.table("Log events")]
    yield from compare(OPERATIONS, "log events", events, docs_facts.log_events())
    for cause in docs_facts.refusals():
        if f"`{cause}`" not in document.text:
            yield f"{OPERATIONS}: the cause of refusal {cause} is missing"


def check_contract(document: Document) -> Iterator[str]:
    """Compare headers, refusals and examples of events with the code."""
    headers = [row.code() for row in document.table("Headers")]
    yield from compare(CONTRACT, "headers", headers, docs_facts.headers())
    refusals = [(row.cells[0], row.code(1)) for row in document.table("Refusals")]
    yield from compare(CONTRACT, "refusals", refusals, docs_facts.problems())
    shown = {
        content.get("type")
        for block in document.fences
        if block.language == "json"
        and isinstance(content := orjson.loads(block.text), dict)
    }
    for missing in {*PUBLIC_TYPES} - shown:
        yield f"{CONTRACT}: an example of the event {missing} is missing"


def check_provider(document: Document) -> Iterator[str]:
    """Compare the operations; every shape of the provider has a test."""
    known = [row.code() for row in document.table("Operations")]
    yield from compare(PROVIDER, "operations", known, docs_facts.operations())
    for heading in SHAPES:
        for line, text in docs_tests.check_matrix(document, heading):
            yield f"{PROVIDER}:{line}: {text}"


def check_reliability(document: Document) -> Iterator[str]:
    """Compare the places with the table of them; each row of the matrix has tests."""
    for line, text in docs_tests.check_matrix(document, "The matrix"):
        yield f"{RELIABILITY}:{line}: {text}"
    places = [row.code() for row in document.table("Failpoints")]
    yield from compare(RELIABILITY, "failpoints", places, NAMES)


def compare(
    where: Path, what: str, documented: Iterable[object], real: Collection[object]
) -> Iterator[str]:
    """Say what only one of the two has; a fact must be documented once."""
    found = list(documented)
    for item in found:
        if item not in real:
            yield f"{where}: {what}: the code has no {item}"
        elif found.count(item) > 1:
            yield f"{where}: {what}: {item} stands there more than once"
    for item in real:
        if item not in found:
            yield f"{where}: {what}: {item} is not documented"


def check_commands_are_named(documents: Sequence[Document]) -> Iterator[str]:
    """Every command stands somewhere in the documentation."""
    texts = "\n".join(document.text for document in documents)
    for command in docs_commands.leaves():
        if f"pipeline {command}" not in texts:
            yield f"the command `pipeline {command}` is not documented"


def check_all_are_linked(by_path: dict[Path, Document]) -> Iterator[str]:
    """Every document can be reached from another one."""
    linked = {
        (document.path.parent / link.text.partition("#")[0]).resolve()
        for document in by_path.values()
        for link in document.links
        if link.text.partition("#")[0]
    }
    for path, document in by_path.items():
        if path != Path("README.md") and document.path not in linked:
            yield f"{path}: no document links to it"


def check_references_in_code() -> Iterator[str]:
    """What code and configuration say of documents is there."""
    reference = re.compile(r"\bdocs/[\w/-]+(?:\.md)?")
    folders = ("pipeline", "tests", "configs", "examples", "benchmarks")
    for folder in folders:
        for path in sorted((ROOT / folder).glob("**/*.*")):
            if path.suffix not in {".py", ".toml", ".sql", ".yaml", ".conf"}:
                continue
            for name in reference.findall(path.read_text(encoding="utf-8")):
                if not any(ROOT.glob(f"{name}*")):
                    yield f"{path.relative_to(ROOT)}: {name}: there is no such file"


if __name__ == "__main__":
    sys.exit(main())
