"""What README.md and docs/ point at is there: files, links, commands, their flags, config keys."""

import pathlib
import re

import pytest

from finecausal_jax.settings import schema

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("finecausal_jax", "benchmarks", "tfds_finecausal", "configs", "tests", "docs")
SHARED = (ROOT / "finecausal_jax" / "commands" / "__init__.py").read_text()
COMMANDS = {
    path.stem: text + (SHARED if re.search(r"define_(weights|scorer)\(\)", text) else "")
    for package in ("finecausal_jax", "benchmarks")
    for path in (ROOT / package / "commands").glob("[a-z]*.py")
    for text in [path.read_text()]
}


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request):
    return request.param


def test_files_and_links_exist(page):
    text = page.read_text()
    files = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.]*)`", text)
    missing = [name for name in files if not (ROOT / name).exists()]
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert missing + [link for link in links if not (page.parent / link).exists()] == []


def test_commands_and_their_flags_exist(page):
    for line in re.findall(r"launch\.py (.*)", page.read_text().replace("\\\n", " ")):
        name, *words = re.split(r"[\s`]+", line)
        if not name.islower():  # COMMAND, or the file itself
            continue
        assert name in COMMANDS, line
        for flag in [word.lstrip("[") for word in words if word.lstrip("[").startswith("--")]:
            flag = flag[2:].partition("=")[0]
            known = flag in ("config", "workdir", "help") or flag.startswith("config.")
            assert known or f'"{flag}"' in COMMANDS[name], line


def test_config_keys_exist(page):
    text = page.read_text()
    sections = "data|model|train|evaluate|benchmark|rendered"
    keys = re.findall(rf"(?:config\.|`)((?:{sections})\.[a-z_0-9]+)[^\w(/]", text)
    known = set(schema.keys())
    assert [key for key in keys if key not in known] == []
