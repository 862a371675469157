"""What an installation promises: versions, and the files of the forge."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import pipeline

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORGE = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)


def test_the_lowest_versions_are_those_that_the_project_promises():
    promised = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", dependency).groups() for dependency in PROJECT["dependencies"])
    lowest = {name: re.sub(r"(\.0)+$", "", version) for name, version in pins("lowest.txt").items()}
    assert lowest == {name: re.sub(r"(\.0)+$", "", version) for name, version in promised.items()}


def test_every_dependency_is_pinned_for_the_tests():
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["docs"]]
    names = {re.match(r"[\w-]+", dependency)[0].lower() for dependency in needed}
    assert names <= pins("constraints.txt").keys()


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == pipeline.__version__
    assert cited["license"] == PROJECT["license"]


def test_the_changelog_begins_with_what_is_not_released_or_with_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings[0] in ("Unreleased", pipeline.__version__)


def test_what_the_container_copies_is_given_to_its_builder():
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    given = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert [name for line in copied for name in line.split()] == given


def test_the_tests_run_on_every_promised_python():
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert matrix["python"] == promised


@pytest.mark.parametrize("path", FORGE, ids=lambda path: path.name)
def test_files_of_the_forge_are_yaml(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))
