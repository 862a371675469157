"""Every code block of the pages is run, or is in a list that says why it is not."""

import json
import re
import shutil
from pathlib import Path

import commands
import nibabel as nib
import numpy as np
import pytest
import yaml
from pages import BLOCK, PAGES, SHELL, SMALL, UNET, VOLUMES, blocks_of, name_of, run_page, understood
from runs_fixtures import ROOT, make_phantom

import fewmask
from pipeline import runs
from pipeline.studies.grid import read_study


def of_language(language):
    for path in PAGES:
        for number, block in enumerate(blocks_of(path)):
            if block.language == language:
                yield f"{name_of(path)}:{number}", path, block.text


# Pages whose blocks are all run by tests of their own.
ELSEWHERE = {
    "CONTRIBUTING.md": "test_parts.py",
    "docs/coming-from.md": "test_coming_from.py",
    "docs/python.md": "test_api.py",
    "docs/howto/ct.md": "test_pages.py",
    "docs/howto/notebook.md": "test_pages.py",
    "docs/howto/parts.md": "test_pages.py",
    "docs/howto/scribbles.md": "test_pages.py",
    "docs/howto/slices.md": "test_pages.py",
    "docs/tutorials/demo.md": "test_pages.py",
    "docs/tutorials/own-scans.md": "test_pages.py",
    **{name_of(path): "test_docs.py" for path in PAGES if path.parent.name == "metrics" and path.stem != "README"},
}
# Blocks that are not run here, by their page and the beginning of their first line, and why.
NOT_RUN = {
    "README.md": {
        "make demo": "installs from a package index; the demo's tutorial has its commands, and is run",
        "python3 -m venv": "installs from a package index",
    },
    "docs/distributed.md": {
        "srun": "needs Slurm; tests/test_distributed.py starts the processes itself",
        "torchrun --nproc_per_node 4 --max-restarts": "tests/test_restarts.py kills a process of it",
        "#!/bin/bash": "needs Slurm",
    },
    "docs/howto/cluster.md": {
        "timeout": "its own test in tests/test_pages.py sends the signal",
        "fewmask train supervised dataset=/data/scans": "needs Slurm; tests/test_launching.py has --launcher local",
        "#!/bin/bash\n#SBATCH --array=1-5": "needs Slurm; tests/test_launching.py has it read by shellcheck",
        "#!/bin/bash\n#SBATCH --array=1-20": "the same",
        "fewmask check /data/scans": "comes after the jobs; tests/test_check_shards.py checks shares, then the whole",
    },
    "docs/howto/seeds.md": {"cat": "its own test in tests/test_pages.py makes its trainings small"},
    "docs/howto/service.md": {
        "# serve.py": "its own test in tests/test_pages.py starts the service, and ends it",
        "python serve.py": "the same: that test asks as curl does",
    },
    "docs/planning.md": {"python -m venv": "installs nnU-Net from a package index"},
    "docs/releasing.md": {
        "git clone": "installs from a package index; CI does it",
        "python -m venv": "installs from a package index; CI does it, in its job of the wheel alone",
    },
    "docs/report.md": {"make demo": "installs from a package index, and needs a browser"},
    "docs/unsupervised.md": {"pip install": "installs from a package index, and trains for hours"},
}
# A training of two steps, for settings that a page writes down.
SETTINGS = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in (*SMALL, *VOLUMES, *UNET))}
# What is replaced in the text of a page, so that it takes seconds.
SMALLER = {
    "README.md": {'{"time_budget": "20min"}': repr(SETTINGS)},
    "docs/datasets.md": {"--folds 5": "--folds 2", "--folds 3": "--folds 2"},
    "docs/distributed.md": {"--nproc_per_node 4": "--nproc_per_node 2"},
    "docs/export.md": {"1, 32, 32, 32": "1, 16, 16, 16"},
    "docs/report.md": {"--seeds 5": "--seeds 2"},
    "docs/studies.md": {
        "data/Task04_Hippocampus": "scans",
        "[5, 10, 20]": "[2]",
        "[0, 1, 2, 3, 4]": "[0]",
        "[0, 1]": "[0]",
        "160": "3",
        "{max_steps: 2400}": "{max_steps: 4}",
        "{max_steps: 1200}": json.dumps(SETTINGS),
    },
    "docs/training.md": {"--folds 5": "--folds 2", "--seeds 5": "--seeds 2", " RUN-3 RUN-4 RUN-5": ""},
}


def quick(*words):
    """Run a command, in a process of its own, as a reader does."""
    done = commands.fewmask(*words)
    return done.returncode, done.stdout, done.stderr


def train(dataset, run, *words):
    code, out, err = quick("train", "supervised", f"dataset={dataset}", *SMALL, *VOLUMES, *UNET, *words, "-o", run)
    assert code == 0, out + err


# The places where readers of a page are, in the current folder.


def nowhere():
    pass


def with_scans():
    make_phantom(Path("DATASET"), 8, 2)
    Path("SCANS").symlink_to("DATASET/imagesTs")
    shutil.copy("SCANS/phantom_008.nii.gz", "scan.nii.gz")


def with_a_run():
    with_scans()
    train("DATASET", "RUN")
    for name, meant in (("data", "DATASET"), ("scans", "SCANS"), ("run", "RUN")):
        Path(name).symlink_to(meant)


def with_splits():
    make_phantom(Path("DATASET"), 6, 0)
    ids = [f"phantom_{number:03}" for number in range(6)]
    halves = [{"train": ids[:3], "val": ids[3:]}, {"train": ids[3:], "val": ids[:3]}]
    Path("splits_final.json").write_text(json.dumps(halves))
    rows = [f"{name}\t{site}\n" for name, site in zip(ids, ["north", "south"] * 3, strict=True)]
    Path("participants.tsv").write_text("participant_id\tsite\n" + "".join(rows))
    Path("PAIRS").mkdir()
    for name in ids[:2]:
        for folder, end in (("imagesTr", "img"), ("labelsTr", "seg")):
            nib.save(nib.load(f"DATASET/{folder}/{name}.nii.gz"), f"PAIRS/{name}.{end}.nii")


def with_masks_and_a_study():
    with_scans()
    for name in ("MASKS", "LABELS"):
        shutil.copytree("DATASET/labelsTr", name)
    study = {"dataset": "DATASET", "labelled": [3], "draws": [0], "seeds": [0], "settings": SETTINGS}
    method = {"name": "plain", "recipe": "supervised"}
    Path("STUDY.yaml").write_text(yaml.safe_dump(study | {"methods": [method]}))


def with_two_methods():
    make_phantom(Path("data"), 6, 2)
    for method, loss in (("a", "dice"), ("b", "cross_entropy")):
        for seed in (1, 2, 3):
            objective = f"objective=[{{loss: {loss}}}]"
            train("data", f"runs/{method}{seed}", f"seed={seed}", "data.split_seed=0", objective)


def with_models():
    make_phantom(Path("DATASET"), 6, 2)
    Path("data").mkdir()
    Path("data/Task04_Hippocampus").symlink_to(Path("DATASET").resolve())
    train("DATASET", "MODEL")
    for number in (1, 2):
        train("DATASET", f"RUN-{number}", f"data.fold=[{number},2]")


def with_patients():
    make_phantom(Path("scans"), 6, 0)


PLACES = {
    "README.md": with_scans,
    "docs/atlases.md": with_scans,
    "docs/commands.md": with_a_run,
    "docs/datasets.md": with_splits,
    "docs/distributed.md": with_scans,
    "docs/export.md": with_a_run,
    "docs/howto/cluster.md": nowhere,
    "docs/howto/seeds.md": nowhere,
    "docs/howto/service.md": nowhere,
    "docs/howto/trackers.md": nowhere,
    "docs/planning.md": nowhere,
    "docs/prediction.md": with_a_run,
    "docs/recipes.md": nowhere,
    "docs/releasing.md": nowhere,
    "docs/report.md": with_two_methods,
    "docs/runs.md": with_masks_and_a_study,
    "docs/studies.md": with_patients,
    "docs/training.md": with_models,
    "docs/unsupervised.md": with_scans,
}


@pytest.fixture
def own_registries():
    """What a page's plugins register is forgotten after the test."""
    before = [(registry.components, dict(registry.components)) for registry in runs.REGISTRIES]
    yield
    for components, kept in before:
        components.clear()
        components.update(kept)


def test_every_block_is_run_or_said_why_not():
    blocks = {name_of(path): [b.text for b in blocks_of(path) if b.language in (*SHELL, "python")] for path in PAGES}
    assert {name for name, texts in blocks.items() if texts} == PLACES.keys() | ELSEWHERE.keys()
    assert PLACES.keys() & ELSEWHERE.keys() == set()
    for name, reasons in NOT_RUN.items():
        for first in reasons:
            assert len([text for text in blocks[name] if text.startswith(first)]) == 1, (name, first)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_command_hides_in_another_kind_of_block(path):
    hidden = re.compile(r"^ *(\$ )?(fewmask|python3?|pip|make|torchrun|srun|docker) [\w-]", re.MULTILINE)
    others = [block.text for block in blocks_of(path) if block.language not in (*SHELL, "python", "yaml", "json")]
    assert not any(map(hidden.search, others))
    indented = re.findall(r"\n\n((?: {4}.*\n)+)", BLOCK.sub("", path.read_text(encoding="utf-8")))
    assert not any(map(hidden.search, indented))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PLACES))
def test_blocks_of_a_page_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for key, value in (("ID", "1"), ("MIN", "0"), ("STEP", "1")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", value)
    monkeypatch.setattr(commands, "LIMIT_S", 900)
    PLACES[name]()
    run_page(ROOT / name, quick, most=SMALLER.get(name), but=NOT_RUN.get(name, ()))


@pytest.mark.parametrize(("path", "text"), [pytest.param(*given, id=name) for name, *given in of_language("yaml")])
def test_recipe_of_a_page_is_read(path, text, tmp_path, own_registries):
    told = yaml.safe_load(text)
    if "apiVersion" in told:  # tests/test_launching.py has the manifest judged by its schema.
        (container,) = told["spec"]["template"]["spec"]["containers"]
        assert understood(container["args"])[1]["folds"] == 5
    elif "methods" in told:
        (tmp_path / "study.yaml").write_text(text)
        assert len(read_study(tmp_path / "study.yaml").methods) == len(told["methods"])
    else:
        rest = "" if "objective" in told else "objective: [{loss: dice}]\n"
        (tmp_path / "recipe.yaml").write_text(f"{text}dataset: .\n{rest}")
        for page in (path, ROOT / "CONTRIBUTING.md"):
            for block in blocks_of(page):
                if named := re.match(r"# (\w+\.py)\n", block.text):
                    (tmp_path / named[1]).write_text(block.text)
        read = runs.read_recipe(tmp_path / "recipe.yaml")
        assert told.keys() <= read.model_fields_set


@pytest.mark.parametrize(("path", "text"), [pytest.param(*given, id=name) for name, *given in of_language("json")])
def test_list_of_a_page_is_read(path, text, tmp_path):
    told = json.loads(text)
    make_phantom(tmp_path / "made", 1, 0)
    mask = nib.load(tmp_path / "made/labelsTr/phantom_000.nii.gz")
    values = np.asarray(mask.dataobj).astype("uint8")
    for number, entry in enumerate(
        entry for key in ("training", "validation", "unlabeled") for entry in told.get(key, [])
    ):
        for name in (entry["image"], entry.get("label", entry["image"])):
            (tmp_path / name).parent.mkdir(exist_ok=True)
        image = nib.load(tmp_path / "made/imagesTr/phantom_000.nii.gz")
        nib.save(nib.Nifti1Image(image.get_fdata() + number, image.affine), tmp_path / entry["image"])
        if "label" in entry:
            kept = [told["labels"][name] for name in entry.get("annotated", told["labels"])]
            seen = np.where(np.isin(values, kept), values, 0).astype("uint8")
            nib.save(nib.Nifti1Image(seen, mask.affine), tmp_path / entry["label"])
    (tmp_path / "list.json").write_text(text)
    assert fewmask.check(tmp_path / "list.json").problems == []
