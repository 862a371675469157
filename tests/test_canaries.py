"""What may identify a patient, a person or a machine reaches no output."""

import gzip
import itertools
import os
import platform
import socket

import nibabel as nib
import pytest
from runs_fixtures import make_phantom, train

from pipeline import runs

FIELDS = {"descrip": 80, "aux_file": 24, "db_name": 18, "intent_name": 16}
# Files that say where things lie on this machine, since a run has to find them again; all others may be passed on.
PLACES = {"config.yaml", "check.json"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run, and everything else that the commands write, of scans whose headers and surroundings sing."""
    numbers = itertools.count()
    headers, patch = [], pytest.MonkeyPatch()

    def canary(length=16):
        headers.append(f"zq{next(numbers):04d}canary"[:length].encode())
        return headers[-1]

    base = tmp_path_factory.mktemp("world")
    surroundings = {name: f"zq{name}canary" for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "host", "home")}
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME"):
        patch.setenv(name, surroundings[name])
    home = base / surroundings["home"]
    patch.setenv("HOME", str(home))
    patch.setattr(socket, "gethostname", lambda: surroundings["host"])
    patch.setattr(platform, "node", lambda: surroundings["host"])
    data = make_phantom(home / "zqfoldercanary" / "phantoms", labelled=6, unlabelled=3)
    for path in sorted(data.rglob("*.nii.gz")):
        image = nib.load(path)
        for field, length in FIELDS.items():
            image.header[field] = canary(min(length, 16))
        for code in (0, 4, 6):
            image.header.extensions.append(nib.nifti1.Nifti1Extension(code, canary() + b"\0" * 8))
        path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
    out = base / "out"
    out.mkdir()
    run = train(out, data, "run")
    runs.validate(run, which="best")
    masks = runs.predict(run, [data / "imagesTs"], out / "masks")
    runs.evaluate(data / "labelsTr", data / "labelsTr", out / "scores")
    patch.undo()
    for recipe in out.glob("recipe_*.yaml"):
        recipe.unlink()
    return out, headers, [text.encode() for text in (*surroundings.values(), "zqfoldercanary")], masks


def contents(folder):
    """Return name and content of every file, and what is packed in it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            yield path, str(path.relative_to(folder)).encode() + data
            if data.startswith(b"\x1f\x8b"):
                yield path, gzip.decompress(data)


def test_there_are_over_100_canaries_and_they_are_in_the_scans(world):
    out, headers, surroundings, _ = world
    assert len({*headers, *surroundings}) >= 110
    heard = set()
    for path, data in contents(out.parent / os.fsdecode(surroundings[-2])):
        heard |= {canary for canary in headers if canary in data} if path.name.endswith(".gz") else set()
    assert heard == set(headers)


def test_nothing_of_a_header_reaches_an_output(world):
    out, headers, _, masks = world
    assert masks
    assert [(path.name, canary) for path, data in contents(out) for canary in headers if canary in data] == []


def test_no_user_no_host_and_no_path_reaches_an_output_but_those_that_say_where_things_lie(world):
    out, _, surroundings, _ = world
    found = {path.name for path, data in contents(out) if any(canary in data for canary in surroundings)}
    assert found <= PLACES
    named = [canary for canary in surroundings if canary not in (b"zqhomecanary", b"zqfoldercanary")]
    assert [path.name for path, data in contents(out) if any(canary in data for canary in named)] == []
