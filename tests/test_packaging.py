"""What an installation promises: versions, and the files of the forge."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

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
    names = {re.match(r"[\w-]+", dependency)[0].lower() for dependency in PROJECT["dependencies"]}
    assert names <= pins("constraints.txt").keys()


def test_the_tests_run_on_every_promised_python():
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"]["matrix"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert matrix["python"] == promised


@pytest.mark.parametrize("path", FORGE, ids=lambda path: path.name)
def test_files_of_the_forge_are_yaml(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))
