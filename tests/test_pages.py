"""The pages: their commands are those of the parser, their code is code, and what they promise happens."""

import doctest
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from pages import PAGES, SHELL, blocks_of, commands_of, made_small, pieces, run_page, understood
from runs_fixtures import ROOT, command_runner, make_phantom, train

import fewmask
from pipeline import cli, runs

DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
GUIDES = [DOCS / "howto" / f"{name}.md" for name in ("ct", "parts", "scribbles", "slices")]
LINES = [
    pytest.param(words, id=f"{path.relative_to(ROOT)}:{' '.join(words)[:60]}")
    for path in PAGES
    for block in blocks_of(path)
    if block.language in SHELL
    for words in commands_of(block.text)
]
RECIPES = {path.stem for path in ROOT.glob("configs/*.yaml")}


@pytest.fixture
def run(monkeypatch, capsys):
    return command_runner(monkeypatch, capsys)


def test_there_are_commands_in_the_pages():
    assert cli.main
    assert len(LINES) > 60


@pytest.mark.parametrize("words", LINES)
def test_command_of_a_page_is_one_of_the_program(words, tmp_path):
    general = [word for word in words if word in ("--quiet", "--verbose", "--json")]
    words = [word for word in words if word not in general]
    if words[0].startswith("--"):
        assert words[0] in ("--help", "--version", "--tyro-print-completion")
        return
    _, named = understood(words)
    if words[0] not in ("train", "plan"):
        return
    source = Path(str(named["source"]))
    name = source.stem if source.stem in RECIPES else "supervised"
    keys = [key for key in named["overrides"] if not key.startswith(("plugins=", "dataset="))]
    if not any(key.startswith("plugins=") for key in named["overrides"]):
        runs.read_recipe(ROOT / "configs" / f"{name}.yaml", [*keys, f"dataset={tmp_path}"])


@pytest.mark.parametrize("words", [["train", "d", "--time-budgte", "1h"], ["predict", "r"]])
def test_command_that_is_none_is_found(words, capsys):
    with pytest.raises(SystemExit):
        understood(words)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_of_a_page_is_code(path):
    for block in blocks_of(path):
        if block.language == "python" and ">>>" not in block.text:
            compile(block.text, str(path), "exec")
        elif block.language == "python":
            assert doctest.DocTestParser().get_examples(block.text)
        elif block.language == "yaml":
            assert yaml.safe_load(block.text)
        elif block.language == "json":
            assert json.loads(block.text)
        else:
            assert block.language in ("sh", "bash", "text", "", "python", "toctree")


def test_page_of_the_python_interface_has_every_public_name():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    written = set(re.findall(r"^.. auto\w+:: (?:pipeline\.)?(\w+)", page, flags=re.MULTILINE))
    assert written == set(fewmask.__all__) - {"__version__"}


# What a page does, done small.


def test_demo_is_typed_by_make_as_the_tutorial_has_it():
    make = (ROOT / "Makefile").read_text()
    ((_, demo),) = [(path, path.read_text()) for path in TUTORIALS if path.stem == "demo"]
    typed = commands_of(make.partition("demo:")[2].partition("printf")[0].replace("&& fewmask", "\nfewmask"))
    told = [words for block in blocks_of(TUTORIALS[0]) if block.language == "sh" for words in commands_of(block.text)]
    assert TUTORIALS[0].stem == "demo"
    assert [words for words in told if words[0] != "check"] == typed
    assert "make demo" in demo


@pytest.mark.slow
def test_tutorial_of_your_own_scans_is_gone_through(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_page(
        DOCS / "tutorials" / "own-scans.md", run, most={"--unlabelled 48": "--unlabelled 9", "--folds 3": "--folds 2"}
    )
    assert done[:4] == ["phantom", "check", "check", "train"]
    assert done[-2:] == ["export", "predict"]
    assert len(list(Path("masks").glob("phantom_*.nii.gz"))) == 9
    assert Path("runs/folds/out-of-fold/report.html").is_file()
    assert nib.load("one.nii.gz").shape == nib.load("mine/images/phantom_020.nii.gz").shape
    assert len(Path("masks/annotate_next.csv").read_text().splitlines()) == 10


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_as_it_stands(path, tmp_path):
    """With the program's own name on the path, as a reader has it."""
    program = tmp_path / "bin" / "fewmask"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "run.py"}" "$@"\n')
    program.chmod(0o755)
    place = tmp_path / "here"
    place.mkdir()
    environment = os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks_of(path):
        if block.language == "sh":
            done = subprocess.run(
                ["bash", "-euc", block.text], cwd=place, env=environment, capture_output=True, text=True
            )
            assert done.returncode == {"": 0, "fails": 2}[block.words], block.text + done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_guide_is_gone_through(path, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run_page(path, run)
    assert "train" in done
    if path.stem == "scribbles":
        assert "ignore: 255" in Path("RUN/config.yaml").read_text()
    if path.stem == "ct":
        assert "scheme: ct" in Path("RUN/config.yaml").read_text()


@pytest.mark.slow
def test_guide_to_seeds_has_a_table_of_both_methods(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in blocks_of(DOCS / "howto" / "seeds.md") if "seeds.yaml" in block.text]
    write, study = pieces(block.text)
    make_phantom(tmp_path / "scans", 10, 5)
    subprocess.run(["bash", "-euc", write], check=True)
    grid = yaml.safe_load(Path("seeds.yaml").read_text())
    small = dict(word.split("=", 1) for word in made_small(["train"])[1:])
    grid["settings"] = {key: yaml.safe_load(value) for key, value in small.items()}
    Path("seeds.yaml").write_text(yaml.safe_dump(grid))
    assert run(*commands_of(study)[0])[0] == 0
    assert "teacher" in Path("studies/seeds/results.md").read_text()


@pytest.mark.slow
def test_guide_to_clusters_is_stopped_and_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_phantom(tmp_path / "scans", 6, 2)
    (block,) = [block for block in blocks_of(DOCS / "howto" / "cluster.md") if block.words == "143"]
    (words,) = commands_of(block.text)
    assert words[-1] == "--resume"
    endless = ["max_steps=100000" if word == "max_steps=2" else word for word in made_small(words)]

    def steps_before_the_limit(known):
        """Let the job begin, send the signal once it has gone on, and return the number of its steps."""
        with subprocess.Popen([sys.executable, ROOT / "run.py", *endless], stderr=subprocess.DEVNULL) as job:
            while job.poll() is None and steps() <= known + 1:
                time.sleep(0.2)
            job.terminate()
        assert job.returncode == 143
        return steps()

    def steps():
        log = Path("RUN/history.csv")
        return len(log.read_text().splitlines()) - 1 if log.exists() else 0

    first = steps_before_the_limit(0)
    assert steps_before_the_limit(first) > first


@pytest.fixture(scope="module")
def organ(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    make_phantom(folder / "scans")
    return train(folder, folder / "scans", "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notebook", "slices"])
def test_doctests_of_a_guide(name, organ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scans").symlink_to(organ.parent / "scans")
    page = DOCS / "howto" / f"{name}.md"
    blocks = page.read_text(encoding="utf-8").replace("\n```\n", "\n\n")
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(test).failed == 0
    assert len(test.examples) >= 5


@pytest.mark.slow
def test_service_gives_a_mask_or_a_reason(organ, tmp_path):
    (code,) = [block.text for block in blocks_of(DOCS / "howto" / "service.md") if block.language == "python"]
    (tmp_path / "serve.py").write_text(code)
    words = [sys.executable, tmp_path / "serve.py", organ, "0"]
    about = os.environ | {"PYTHONPATH": str(ROOT)}
    scan = organ.parent / "scans" / "imagesTs" / "phantom_004.nii.gz"
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=about) as service:
        try:
            address = service.stdout.readline().removeprefix("listening on ").strip()
            with urllib.request.urlopen(address, scan.read_bytes(), timeout=60) as answer:
                (tmp_path / "mask.nii.gz").write_bytes(answer.read())
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(address, scan.read_bytes()[:3000], timeout=60)
            assert refused.value.code == 400
            reason = refused.value.read()
            assert (reason.startswith(b"truncated-gzip: "), b"/" in reason) == (True, False)
            parts = urllib.request.Request(address, iter([scan.read_bytes()]), {"Transfer-Encoding": "chunked"})
            with pytest.raises(urllib.error.HTTPError) as unmeasured:
                urllib.request.urlopen(parts, timeout=60)
            assert unmeasured.value.code == 411
            with urllib.request.urlopen(address, gzip.decompress(scan.read_bytes()), timeout=60) as answer:
                (tmp_path / "again.nii.gz").write_bytes(answer.read())
        finally:
            service.terminate()
    assert shutil.which("bash")
    mask = nib.load(tmp_path / "mask.nii.gz")
    runs.predict(organ, [scan], tmp_path / "masks")
    for path in (tmp_path / "masks" / scan.name, tmp_path / "again.nii.gz"):
        np.testing.assert_array_equal(mask.dataobj, nib.load(path).dataobj)
