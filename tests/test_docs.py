"""Every page agrees with the program: its links, files, commands, options, routes and snippets."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import typer.main
from pydantic import TypeAdapter

from bitsift.cluster.cli.main import app
from bitsift.cluster.fleet.spec import read_spec
from bitsift.results import Answer
from bitsift.router.http.gateway import create_app
from bitsift.router.http.routes import ROUTE_SCOPES, split_index
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running, running_empty

ROOT = Path(__file__).parents[1]
HISTORY = ROOT / "CHANGELOG.md"
"""It tells of what once was."""
PAGES = [
    page
    for folder in (".", "docs", "benchmarks")
    for page in sorted((ROOT / folder).glob("*.md"))
    if page != HISTORY
]
README_WORDS_MAX = 1_600
TOOLS = ("hypothesis", "import-linter", "mypy", "pytest", "ruff", "selenium", "trustme")
"""What everyone who works on it knows."""
DIMENSION = 64
PLACES = ("tests", "shard_worker", "router", "cluster", "benchmarks")
ELSEWHERE = ("DESIGN", "FIELD-NOTES", "FAULTS.md", "OPERATIONS.md", "REVIEW.md", "LAYOUT.md")
"""Papers that are not in the repository: a page or a comment that cites one leads nowhere."""
USERS_OWN = ("bitsift.toml",)
"""Files that a page names and a user makes."""


def by_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=by_name)


def code(page: Path) -> list[str]:
    """The lines of the code blocks of a page, and its inline code."""
    text = page.read_text()
    blocks = re.findall(r"^(?: {4}|\t)(.+)$", text, re.M)
    for fenced in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        blocks += fenced.splitlines()
    return blocks + re.findall(r"`([^`\n]+)`", text)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each call of ``bitsift`` on a page."""
    for line in code(page):
        for call in re.split(r";|&&|\|\||\s#\s|\s{3,}| \| ", line):
            found = re.search(r"(?:^|(?<!from)[\s/])bitsift ([a-z].*)$", call.strip())
            if found:
                yield found[1].split()


def command_named(words: list[str]) -> Any:
    """The command that the first words name; None where there is none."""
    found: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(found, "commands"):  # typer has its own copy of click: no class to ask for
            break
        found = found.commands.get(word.split("|")[0])
    return found


def test_the_readme_can_be_read_in_some_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS_MAX


def test_the_readme_says_of_each_dependency_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        needed += [name for name in extra if not name.startswith(("bitsift[", *TOOLS))]
    table = (ROOT / "README.md").read_text().split("## Dependencies")[1]
    rows = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    names = [re.split(r"[>=<\[;]", name)[0] for name in needed]
    assert not [name for name in names if name not in rows]


@every_page
def test_a_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s#]*)(?:#[^)\s]*)?\)", page.read_text())
    missing = [
        target
        for target in targets
        if target and not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert not missing


@every_page
def test_a_file_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(
        r"`((?:[\w.-]+/)*[\w-]+\.(?:py|md|sh|toml|svg))(?:::?\S*)?`", page.read_text()
    )
    homes = [ROOT, page.parent, *(ROOT / name for name in PLACES)]
    missing = [
        name
        for name in named
        if name not in USERS_OWN and not any((home / name).exists() for home in homes)
    ]
    assert not missing


@pytest.mark.parametrize("package", ["cluster", "router", "shard_worker"])
def test_the_map_of_a_package_names_its_parts_and_files_that_exist(package: str) -> None:
    text = (ROOT / package / "__init__.py").read_text().split('"""')[1]
    files = {path.name for path in (ROOT / package).rglob("*.py")}
    parts = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert set(re.findall(r"(\w+\.py)\b", text)) <= files
    assert parts <= set(re.findall(r"^ {4}(\w+)/ ", text, re.M))


@every_page
def test_a_command_of_a_page_exists_with_its_options(page: Path) -> None:
    wrong = []
    for words in commands(page):
        command = command_named(words)
        if command is None:
            wrong.append(" ".join(words))
            continue
        known = {name for option in command.params for name in option.opts + option.secondary_opts}
        used = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        wrong += [f"{words[0]} {name}" for name in used - known]
    assert not wrong


@every_page
def test_a_target_of_make_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    named = {
        name
        for line in code(page)
        for name in re.findall(r"^(?:\S+=\S+ )*make ([a-z][\w-]+)", line)
    }
    assert named <= targets


@every_page
def test_a_program_of_ours_that_a_page_runs_exists(page: Path) -> None:
    text = "\n".join(code(page))
    files = re.findall(r"python (benchmarks/\w+\.py)", text)
    modules = re.findall(r"python -m ((?:tests|benchmarks|cluster|router)[\w.]*)", text)
    places = [ROOT / name for name in files]
    for module in modules:
        place = ROOT / module.replace(".", "/")
        places.append(place / "__main__.py" if place.is_dir() else place.with_suffix(".py"))
    assert not [place for place in places if not place.exists()]


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths of the gateway, each parameter as {}."""
    shards, calibration = make_shards(
        tmp_path_factory.mktemp("routes"), np.empty((0, DIMENSION), np.float32), DIMENSION, 1
    )
    try:
        described = create_app(
            make_service([], calibration), make_writer([], calibration)
        ).openapi()
    finally:
        for shard in shards:
            shard.close()
    return {re.sub(r"\{\w+(?::\w+)?\}", "{}", path) for path in described["paths"]}


@every_page
def test_a_route_of_a_page_exists(page: Path, routes: set[str]) -> None:
    written = re.findall(r"/v1/[a-z_]+(?:/[a-z_]+)*", page.read_text())
    named = {split_index("GET", path)[1] for path in written}
    known = {part for route in routes for part in prefixes(route)}
    assert {name for name in named if name not in known and not is_named(name)} == set()


def prefixes(route: str) -> Iterator[str]:
    """The route without its parameters, and each part of its path."""
    parts = route.replace("/{}", "").split("/")
    yield from ("/".join(parts[:end]) for end in range(3, len(parts) + 1))


def is_named(route: str) -> bool:
    """Whether its last part is the id of a document, or an alias."""
    return route.startswith(("/v1/documents/", "/v1/aliases/"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_empty(tmp_path_factory.mktemp("docs"), DIMENSION) as running:
        yield running


@every_page
def test_the_python_of_a_page_runs(page: Path, gateway: Running) -> None:
    for source in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        local = re.sub(r"http://127\.0\.0\.1:8000", gateway.url, source)
        exec(compile(local, str(page), "exec"), {})


@every_page
def test_a_body_that_a_page_posts_is_accepted(page: Path, gateway: Running) -> None:
    for line in code(page):
        found = re.search(r"curl .*localhost:8000(/v1/\S+) -d '(.+)'", line)
        if found:
            body = json.loads(found[2])
            answer = httpx.post(f"{gateway.url}{found[1]}", json=body, timeout=60)
            assert answer.status_code == 200, answer.text


@every_page
def test_an_answer_that_a_page_shows_is_one(page: Path) -> None:
    """Written over two lines, as far as it goes."""
    text = "\n".join(code(page))
    for start in (found.start() for found in re.finditer(r'^\{"hits":', text, re.M)):
        shown, _ = json.JSONDecoder().raw_decode(text[start:])
        answer = TypeAdapter(Answer).validate_python(shown)
        assert json.loads(orjson.dumps(answer)) == shown  # so no field is missing, or too many


@every_page
def test_the_toml_of_a_page_is_a_spec_with_what_it_leaves_to_choose(
    page: Path, tmp_path: Path
) -> None:
    place = tmp_path / "spec.toml"
    for source in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.M | re.S):
        place.write_text(source)
        read_spec(place)
        choices = re.findall(r"^# (\w+) = (.*)$", source, re.M)
        for key, _ in choices:
            chosen = re.sub(rf"^# (?={key} = )", "", source, flags=re.M)
            if key in ("backup", "name"):  # in the place of the folder
                chosen = re.sub(r"^folder = .*$", "", chosen, flags=re.M)
            place.write_text(chosen)
            read_spec(place)


def test_the_scopes_of_routes_are_those_of_the_page_on_security() -> None:
    text = (ROOT / "docs" / "security.md").read_text().split("| needs | routes |")[1]
    rows = [line.split("|") for line in text.split("\n\n")[0].splitlines() if "|" in line][1:]
    table = {row[1].strip(): re.findall(r"`([^`]+)`", row[2]) for row in rows}
    for route, scope in ROUTE_SCOPES.items():
        method, path = route.split(" ")
        named = [name.removeprefix(f"{method} ") for name in table[str(scope or "no key")]]
        known = [re.sub(r"\{\w+\}|/?…$", "", name) for name in named]
        assert any(
            path == name or (name != "/" and path.startswith(name.rstrip("/") + "/"))
            for name in known
        ), route


def test_nothing_cites_what_is_not_in_the_repository() -> None:
    sources = [
        path
        for folder in ("shard_worker", "router", "cluster", "benchmarks", "tests", "docs")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".c") and path != Path(__file__)
    ]
    cited = re.compile(
        "|".join([rf"\b{re.escape(name)}" for name in ELSEWHERE] + [r"\b[Ii]ssue \d+"])
    )
    found = [
        f"{by_name(path)}:{number}"
        for path in [*sources, *ROOT.glob("*.md")]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if cited.search(line)
    ]
    assert not found
