"""A corpus of hostile inputs, and what becomes of each: `python tests/hostile.py` prints the figures.

Every input goes through the function that a command would give it to, in one process with an audit hook: whatever
runs a program, connects somewhere, imports the canary or writes outside the corpus's own folder is an execution or an
escape.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
CANARY = "canary_that_must_not_sing"
# What a program would be run by, or a place reached.
FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn", "socket.connect")
WRITING = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.truncate",
    "shutil.rmtree",
)
SECOND, BOMB_BYTES = 1.0, 200 * 2**20


@dataclass
class Found:
    """What became of one input: ``refused``, ``accepted`` or the error that was no user's; events that must not be."""

    name: str
    outcome: str
    events: list[str]
    cpu_s: float
    peak_bytes: int


# Checkpoints


def gadgets(canary: Path) -> dict[str, tuple[str, str, tuple]]:
    """Return module, function and arguments of calls that a pickle might make."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "system": ("os", "system", (touch,)),
        "posix": ("posix", "system", (touch,)),
        "popen": ("os", "popen", (touch,)),
        "spawn": ("os", "spawnlp", (0, "touch", "touch", str(canary))),
        "subprocess": ("subprocess", "check_call", (["touch", str(canary)],)),
        "Popen": ("subprocess", "Popen", (["touch", str(canary)],)),
        "getoutput": ("subprocess", "getoutput", (touch,)),
        "pty": ("pty", "spawn", (["touch", str(canary)],)),
        "eval": ("builtins", "eval", (code,)),
        "exec": ("builtins", "exec", (code,)),
        "compile": ("builtins", "compile", (code, "x", "exec")),
        "open": ("builtins", "open", (str(canary), "w")),
        "io.open": ("io", "open", (str(canary), "w")),
        "os.open": ("os", "open", (str(canary), os.O_CREAT | os.O_WRONLY)),
        "import": ("builtins", "__import__", (CANARY,)),
        "importlib": ("importlib", "import_module", (CANARY,)),
        "getattr": ("builtins", "getattr", (1, "__class__")),
        "bytearray": ("builtins", "bytearray", (10**9,)),
        "run_path": ("runpy", "run_path", (str(canary),)),
        "run_module": ("runpy", "run_module", (CANARY,)),
        "rmtree": ("shutil", "rmtree", (str(canary.parent),)),
        "symlink": ("os", "symlink", ("/etc/passwd", str(canary))),
        "timeit": ("timeit", "timeit", (code,)),
        "cProfile": ("cProfile", "run", (code,)),
        "code": ("code", "interact", ()),
        "webbrowser": ("webbrowser", "open", ("http://localhost/",)),
        "urlopen": ("urllib.request", "urlopen", ("http://localhost/",)),
        "socket": ("socket", "create_connection", (("localhost", 9),)),
        "pickle": ("pickle", "loads", (pickle.dumps(1),)),
        "marshal": ("marshal", "loads", (b"N",)),
        "torch.load": ("torch", "load", (str(canary),)),
        "hub": ("torch.hub", "load", ("x/y", "z")),
        "jit": ("torch.jit", "load", (str(canary),)),
        "numpy": ("numpy", "load", (str(canary),)),
        "save": ("numpy", "save", (str(canary), [1])),
        "savetxt": ("numpy", "savetxt", (str(canary), [1])),
        "ctypes": ("ctypes", "CDLL", ("libc.so.6",)),
        "multiprocessing": ("multiprocessing.util", "spawnv_passfds", (b"/bin/touch", [b"touch"], [])),
        "sparse": ("torch._utils", "_rebuild_sparse_tensor", (1, ())),
        "codecs": ("_codecs", "encode", ("x", "utf-8")),
    }


class Call:
    """Pickles to a call, of things that need not be there."""

    def __init__(self, module: str, name: str, arguments: tuple) -> None:
        self.module, self.name, self.arguments = module, name, arguments


def pickled(call: Call, stacked: bool, built: bool) -> bytes:
    """Return a pickle of ``{"format": 2, "network": call(...)}``; by STACK_GLOBAL, or as a state that is set."""
    body = pickle.dumps(call.arguments, protocol=2)[2:-1]
    name = (
        b"\x8c"
        + bytes([len(call.module)])
        + call.module.encode()
        + b"\x8c"
        + bytes([len(call.name)])
        + call.name.encode()
        + b"\x93"
        if stacked
        else f"c{call.module}\n{call.name}\n".encode()
    )
    inner = name + body + b"R"
    if built:
        inner = b"ccollections\nOrderedDict\n)R" + inner + b"b"
    return b"\x80\x02}(X\x06\x00\x00\x00formatK\x02X\x07\x00\x00\x00network" + inner + b"u."


def archive(data: bytes, extra: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in {
            "archive/data.pkl": data,
            "archive/version": b"3\n",
            "archive/byteorder": b"little",
        }.items():
            file.writestr(name, content)
        for name, content in (extra or {}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def checkpoint_files(canary: Path) -> dict[str, bytes]:
    files = {}
    for name, parts in gadgets(canary).items():
        call = Call(*parts)
        files[f"gadget-{name}"] = archive(pickled(call, stacked=False, built=False))
        files[f"gadget-{name}-stacked"] = archive(pickled(call, stacked=True, built=False))
        files[f"gadget-{name}-built"] = archive(pickled(call, stacked=False, built=True))
        files[f"gadget-{name}-bare"] = pickled(call, stacked=False, built=False)
    plain = pickle.dumps({"format": 2}, protocol=2)
    for name, method, size in (("deflate", zipfile.ZIP_DEFLATED, 250), ("bzip2", zipfile.ZIP_BZIP2, 20)):
        files[f"bomb-{name}"] = archive(plain, {"archive/data/0": bytes(size * 10**6)}, method)
    files["bomb-pickle"] = archive(b"\x80\x02" + b"]" * 30_000_000 + b".")
    files["bomb-lists"] = archive(b"\x80\x02" + b"]" * 1_900_000 + b".")
    files["bomb-entries"] = archive(plain, {f"archive/{n}": b"" for n in range(60_000)})
    files["bomb-directory"] = archive(plain)[:-10] + struct.pack("<I", 2**31) + bytes(6)
    files["bomb-storage"] = archive(storage_of(10**12))
    files |= declarations()
    for n, name in enumerate(("../../escaped", "/tmp/escaped", "archive/../../escaped", "..\\escaped", "C:\\escaped")):
        files[f"slip-{n}"] = archive(plain, {name: b"escaped"})
    return files


RECIPE = """
dataset: .
device: cpu
precision: float32
max_steps: 9
data: {dimensions: 3, orientation: RAS, spacing_mm: [1.0, 1.0, 1.0], patch_size: [8, 8, 8], normalization: [zscore],
  batch_size: 1, unlabelled_batch_size: 1, accumulate: 1, workers: 0, resident: false}
augmentation: {flip_axes: [0], rotation_degrees: 15.0, scaling: 0.15, elastic_mm: 0.0}
network: {name: unet, options: {channels: [4, 8], strides: [[2, 2, 2]], num_res_units: 0}, memory_format: contiguous,
  recompute: false}
objective: [{loss: dice}]
postprocessing: []
"""


def declarations() -> dict[str, bytes]:
    """Return checkpoints that declare more than they hold, and one that does not."""
    from pipeline.networks import NETWORKS

    options = {"channels": (4, 8), "strides": ((2, 2, 2),), "num_res_units": 0}
    given = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    small = NETWORKS.build("unet", options, **given).state_dict()
    with torch.device("meta"):
        large = NETWORKS.build("unet", options | {"channels": (1500, 3000)}, **given).state_dict()
    channels, wide = "channels: [4, 8]", "channels: [1500, 3000]"
    number, stored = torch.zeros(1), torch.zeros(100_000)
    held = {
        "sound": (RECIPE, small),
        "bomb-channels": (RECIPE.replace(channels, "channels: [16, 1500, 3000]"), small),
        "bomb-channels-expanded": (
            RECIPE.replace(channels, wide),
            {k: number.expand(v.shape) for k, v in large.items()},
        ),
        "bomb-one-storage": (
            RECIPE.replace(channels, wide),
            {k: stored.as_strided(v.shape, (0,) * v.ndim) for k, v in large.items()},
        ),
        "bomb-levels": (RECIPE.replace(channels, f"channels: {[4] * 9000}"), small),
        "bomb-units": (RECIPE.replace("num_res_units: 0", "num_res_units: 1000000000"), small),
        "bomb-members": (RECIPE.replace("{name: unet,", "{name: unet, members: 9,"), small),
        "bomb-patch": (RECIPE.replace("[8, 8, 8]", "[100000, 100000, 100000]"), small),
        "bomb-patch-overflow": (RECIPE.replace("[8, 8, 8]", f"[{10**9}, {10**9}, {10**9}]"), small),
        "bomb-mirrors": (RECIPE.replace("flip_axes: [0]", f"flip_axes: {[0] * 40}"), small),
        "bomb-nine-shared": (
            RECIPE.replace("{name: unet,", "{name: unet, members: 9,"),
            {f"members.{n}.{k}": v for n in range(9) for k, v in small.items()},
        ),
    }
    task = {"labels": {0: "background", 1: "one"}, "channels": ["image"]}
    about = {"format": 2, "step": 9, "best": None, "version": "0", "task": task}
    states: dict[str, Any] = {k: about | {"recipe": recipe, "network": net} for k, (recipe, net) in held.items()}
    lists: Any = ["x"]
    for _ in range(60):
        lists = [lists, lists]
    sound = states["sound"]
    states |= {
        "bomb-lists-shared": sound | {"scaler": lists},
        # More would take longer than a second, as an honest checkpoint of as many parts does.
        "bomb-labels": sound | {"task": task | {"labels": dict.fromkeys(range(50_000), "x")}},
        "bomb-label": sound | {"task": task | {"labels": {0: "x", 10**12: "y"}}},
        "bomb-names": sound | {"task": task | {"channels": ["x"] * 300_000}},
    }
    files = {}
    for name, state in states.items():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        files[f"declared-{name}"] = buffer.getvalue()
    return files


def storage_of(count: int) -> bytes:
    """Return a pickle of a tensor whose storage claims so many numbers, with none in the archive."""
    size = pickle.dumps(count, protocol=2)[2:-1]
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + size + b"tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00("
        + size
        + b"t(K\x01t\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}(X\x06\x00\x00\x00formatK\x02X\x07\x00\x00\x00network" + tensor + b"u."


# Recipes


def recipes(canary: Path) -> dict[str, str]:
    calls = {
        "apply": "!!python/object/apply:os.system ['touch {c}']",
        "new": "!!python/object/new:os.system ['touch {c}']",
        "object": "!!python/object:subprocess.Popen {{args: touch {c}}}",
        "name": "!!python/name:os.system",
        "module": "!!python/module:{m}",
        "tuple": "!!python/tuple [1, 2]",
        "bytes": "!!python/bytes YQ==",
        "long": "!!python/long 1",
        "eval": "!!python/object/apply:eval ['open({c!r}, \"w\")']",
        "import": "!!python/object/apply:builtins.__import__ [{m}]",
        "tag": "!run touch {c}",
        "verbatim": "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch {c}']",
        "binary": "!!binary aGVsbG8=",
        "set": "!!set {{a, b}}",
        "omap": "!!omap [a: 1]",
        "timestamp": "!!timestamp 2001-12-14",
        "monai": "$__import__('os').system('touch {c}')",
        "hydra": "${{oc.env:HOME}}",
        "jinja": "{{{{ ''.__class__ }}}}",
        "target": "{{_target_: os.system, command: touch {c}}}",
        "requires": '{{_requires_: "$import {m}", _target_: {m}.run}}',
    }
    texts = {}
    for name, call in calls.items():
        value = call.format(c=str(canary), m=CANARY)
        for key in ("dataset", "network", "seed", "objective", "device"):
            texts[f"{name}-{key}"] = f"{key}: {value}\n" + ("" if key == "objective" else "objective: [{loss: dice}]\n")
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    return texts | {
        "bomb-aliases": laughs,
        "bomb-self": "a: &a [*a]\n",
        "bomb-merge": "a: &a {b: 1}\nc: {<<: *a}\n",
        "bomb-flow": "a: " + "[" * 30_000,
        "bomb-flow-map": "a: " + "{a: " * 10_000,
        "bomb-block": "".join(f"{' ' * n}a:\n" for n in range(300)),
        "bomb-sequence": "a: " + "- " * 20_000 + "x\n",
        "bomb-large": "a: 1\n# " + "x" * 3_000_000,
        "bomb-items": "a: [" + "1, " * 300_000 + "1]\n",
        "bomb-integer": "seed: " + "9" * 60_000 + "\n",
        "bomb-float": "seed: 1e" + "9" * 50_000 + "\n",
        "bomb-key": "? [" + "a, " * 10_000 + "a]\n: 1\n",
        "bomb-documents": "---\na: 1\n" * 5_000,
        "bomb-text": 'a: "' + "\\u0041" * 9_000 + '"\n',
        "nul": "dataset: \0\n",
        "bom": "\ufeffdataset: x\n",
    }


# Datasets


OUTSIDE = [
    "../secret.nii.gz",
    "../../secret.nii.gz",
    "a/../../secret.nii.gz",
    "./../secret.nii.gz",
    "images/../../secret.nii.gz",
    "/etc/passwd",
    "/etc/passwd\0.nii.gz",
    "//etc/passwd",
    "~/secret.nii.gz",
    "~root/secret.nii.gz",
    "$HOME/secret.nii.gz",
    "${HOME}/secret.nii.gz",
    "file:///etc/passwd",
    "http://localhost/secret.nii.gz",
    "..\\secret.nii.gz",
    "C:\\secret.nii.gz",
    "\\\\host\\share\\secret.nii.gz",
    "%2e%2e/secret.nii.gz",
    "..%2fsecret.nii.gz",
    "....//secret.nii.gz",
    "/dev/stdin",
    "/dev/zero",
    "/proc/self/environ",
    "/proc/self/fd/0",
    ".",
    "",
    "|touch x",
    "`touch x`.nii.gz",
    "$(touch x).nii.gz",
    "$import os",
]


def listings(canary: Path) -> dict[str, str]:
    texts = {}
    for n, name in enumerate(OUTSIDE):
        image = {"image": name, "label": "labels/a.nii.gz"}
        label = {"image": "images/a.nii.gz", "label": name or "../x"}
        texts[f"outside-image-{n}"] = json.dumps({"training": [image]})
        texts[f"outside-label-{n}"] = json.dumps({"training": [label]})
    sound = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    touch = f"$__import__('os').system('touch {canary}')"
    return texts | {
        "target": json.dumps({"training": [sound | {"_target_": "os.system"}], "x": touch, "validation": touch}),
        "expression": json.dumps({"training": touch}),
        "expression-id": json.dumps({"training": [sound | {"id": touch}]}),
        "expression-labels": json.dumps({"training": [sound], "labels": {"1": touch}}),
        "object": json.dumps({"training": [{"image": {"_target_": "os.system"}}]}),
        "bomb-deep": '{"training": ' + "[" * 200_000,
        "bomb-deep-map": '{"a":' * 200_000,
        "bomb-large": '{"training": [' + '"images/a.nii.gz",' * 2_000_000 + "1]}",
        "bomb-integer": '{"training": [], "x": ' + "9" * 1_000_000 + "}",
        "twice": '{"training": [], "training": []}',
        "nan": '{"training": NaN}',
        "nul": '{"training": ["\\u0000"]}',
        "surrogate": '{"training": ["\\ud800.nii.gz"]}',
        "surrogate-image": '{"training": [{"image": "images/\\ud800.nii.gz"}]}',
        "long-name": json.dumps({"training": [sound, {"image": f"{'a' * 300}.nii.gz"}]}),
        "long-path": json.dumps({"training": [sound, {"image": "images/" * 600 + "a.nii.gz"}]}),
        "long-path-of-slashes": json.dumps({"training": [sound, {"image": "images" + "/" * 5000 + "a.nii.gz"}]}),
        "surrogate-label": '{"training": [{"image": "images/a.nii.gz", "label": "\\ud800.nii.gz"}]}',
        "bomb-labels": json.dumps({"training": [sound], "labels": {str(n): f"n{n}" for n in range(100_000)}}),
        "bomb-labels-by-name": json.dumps({"training": [sound], "labels": {f"n{n}": n for n in range(100_000)}}),
        "bomb-labels-of-one-name": json.dumps({"training": [sound], "labels": dict.fromkeys(range(100_000), "a")}),
        "bomb-region": json.dumps({"training": [sound], "labels": {"a": list(range(500_000))}}),
        "bomb-label": json.dumps({"training": [sound], "labels": {"a": 10**300}}),
        "bomb-ignore": json.dumps({"training": [sound], "ignore": 10**300}),
        "bomb-ignore-label": json.dumps({"training": [sound], "labels": {"a": 1, "ignore": -(10**300)}}),
        "many-keys": json.dumps({"training": [sound]} | {f"original_glcm_{n}": n for n in range(100_000)}),
        "many-keys-of-entries": json.dumps({"training": [sound | {f"glcm_{n}": n for n in range(100_000)}]}),
    }


def tables() -> dict[str, str]:
    many = [f"original_glcm_{n}" for n in range(100_000)]
    row = "images/a.nii.gz" + "," * len(many)
    return {
        "many-columns": f"image,{','.join(many)}\n{row}\n",
        "bomb-columns": f"{','.join(many)}\n",
        "bomb-columns-twice": f"{','.join(many + many)}\n",
        "bomb-field": f"image\n{'a' * 1_000_000}\n",
    }


MARKUP = [
    "[red]x[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "[/]",
    ":boom:",
    "a\x1b[2Jb",
    "a\x1b]0;title\x07b",
    "a\x1b]8;;http://localhost\x07b",
    "a\x9b31mb",
    "a\rb",
    "a\nerror: b",
    "a\x08\x08b",
    "\u202eabc",
    "\u2066abc",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE cases; --",
    "{{7*7}}",
    "${7*7}",
    "%s%n%x",
    "a" * 200,
]


# Scans


def scans() -> dict[str, bytes]:
    """Return scans that would unpack, or claim, more than anybody has, and some that are no files of theirs."""
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes()[:352]

    def shaped(*shape: int) -> bytes:
        changed = bytearray(header)
        struct.pack_into("<8h", changed, 40, len(shape), *shape, *(1,) * (7 - len(shape)))
        return bytes(changed)

    zeros = gzip.compress(bytes(100_000_000), mtime=0)
    wide = shaped(30_000, 30_000, 30_000)
    return {
        "bomb-claim.nii.gz": gzip.compress(wide),
        "bomb-claim.nii": wide,
        "bomb-trailing.nii.gz": gzip.compress(shaped(2, 2, 2) + bytes(16)) + zeros * 20,
        "bomb-members.nii.gz": gzip.compress(shaped(4000, 4000, 4000)) + zeros * 20,
        "bomb-seven.nii.gz": gzip.compress(shaped(32000, 32000, 32000, 32000, 32000, 32000, 32000)),
        "bomb-nested.nii.gz": gzip.compress(zeros),
        "pickle.nii": b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00true\x85R.",
        "numpy.nii": b"\x93NUMPY\x01\x00" + bytes(100),
        "html.nii.gz": b"<html><script>alert(1)</script>",
    }


def write_corpus(folder: Path, canary: Path) -> list[tuple[str, str, str]]:
    """Write every input below a folder, and return how each is read, its name, and its path or text."""
    inputs = []
    for name, data in checkpoint_files(canary).items():
        path = folder / "runs" / name / "checkpoints" / "last-000001.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        inputs.append(("run", f"checkpoint {name}", str(path.parents[1])))
    (folder / "recipes").mkdir()
    for name, text in recipes(canary).items():
        path = folder / "recipes" / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        inputs.append(("recipe", f"recipe {name}", str(path)))
    for n, value in enumerate(("!!python/name:os.system", "*a", "[" * 5000, "$import os", "{_target_: os.system}")):
        inputs += [("override", f"override {key} {n}", f"{key}={value}") for key in ("seed", "network", "dataset.x")]
    for name, text in listings(canary).items():
        place = sound_dataset(folder / "lists" / name)
        (place / "list.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        inputs.append(("dataset", f"list {name}", str(place / "list.json")))
    for name, text in tables().items():
        place = sound_dataset(folder / "tables" / name)
        (place / "table.csv").write_text(text)
        inputs.append(("dataset", f"table {name}", str(place / "table.csv")))
    for n, name in enumerate(MARKUP):
        place = sound_dataset(folder / "markup" / str(n))
        case = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "id": name}
        (place / "list.json").write_text(json.dumps({"training": [case], "labels": {"0": "no", "1": name}}))
        inputs.append(("shown", f"markup {n}", str(place / "list.json")))
        inputs.append(("shown", f"markup in a path {n}", str(place / name.replace("/", "_"))))
    (folder / "scans").mkdir()
    for name, data in scans().items():
        (folder / "scans" / name).write_bytes(data)
        inputs.append(("scan", f"scan {name}", str(folder / "scans" / name)))
    return inputs + [("dataset", f"links {name}", path) for name, path in linked(folder / "links").items()]


def sound_dataset(place: Path) -> Path:
    for part in ("images", "labels"):
        (place / part).mkdir(parents=True)
        voxels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4) % (2 if part == "labels" else 60)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), place / part / "a.nii.gz")
    return place


def linked(folder: Path) -> dict[str, str]:
    """Write datasets with links, pipes and devices where a scan should be."""
    targets = {"passwd": "/etc/passwd", "zero": "/dev/zero", "folder": "/etc", "dangling": "/none", "self": "b.nii.gz"}
    places = {}
    for name, target in targets.items():
        place = sound_dataset(folder / name)
        (place / "images" / "b.nii.gz").symlink_to(target)
        places[name] = str(place)
    place = sound_dataset(folder / "pipe")
    os.mkfifo(place / "images" / "b.nii.gz")
    loop = sound_dataset(folder / "loop")
    (loop / "images" / "again").symlink_to(loop / "images")
    return places | {"pipe": str(place), "loop": str(loop)}


# Looking on


def examine(inputs: list[tuple[str, str, str]], folder: Path) -> list[Found]:
    """Read every input as a command would, under the audit hook."""
    import matplotlib.font_manager  # noqa: F401 - asks the system for its fonts once, and MONAI imports it

    from pipeline import cli, nifti, runs, terminal
    from pipeline.errors import UserError

    base = folder / "base.yaml"
    base.write_text("dataset: x\nobjective: [{loss: dice}]\n")

    def show(path: str) -> None:
        """Print what is wrong with a dataset, or what is in it, and see that no terminal would obey it."""
        text = io.StringIO()
        for console in (terminal.OUT, terminal.ERR):
            console.file = text
        sys.argv = ["fewmask", "check", path]
        try:
            cli.main()
        except SystemExit as stop:
            if stop.code not in (None, 0, 1, 2):
                raise
        if any(not (c.isprintable() or c == "\n") for c in text.getvalue()):
            raise AssertionError(f"a terminal would obey {text.getvalue()!r}")

    readers = {
        "run": lambda path: runs.predict(
            Path(path), [folder / "lists" / "target" / "images"], folder / "masks" / Path(path).name
        ),
        "recipe": lambda path: runs.read_recipe(Path(path)),
        "override": lambda text: runs.read_recipe(base, [text]),
        "dataset": lambda path: runs.check(Path(path)),
        "scan": lambda path: nifti.load(Path(path)).voxels.sum(),
        "shown": show,
        "unpickled": lambda path: pickle.loads(Path(path).read_bytes()),  # noqa: S301 - to see that the hook sees
    }

    # First steps of PyTorch and MONAI are no input's doing: what they look for on a machine with CUDA's libraries, and
    # load for a network without data and for a compiler.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
    for module in ("torch._dynamo", "pipeline.networks", "pipeline.runs.predictors"):
        importlib.import_module(module)
    with torch.device("meta"):
        torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.GroupNorm(2, 2), torch.nn.PReLU())(
            torch.empty(1, 1, 4, 4, 4)
        )
    events: list[str] = []
    watch(events, folder)
    found = []
    for how, name, value in inputs:
        events.clear()
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        before, began = memory("VmRSS"), time.process_time()
        try:
            readers[how](value)
            outcome = "accepted"
        except UserError:
            outcome = "refused"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:300]
        seconds, peak = time.process_time() - began, memory("VmHWM") - before
        found.append(Found(name, outcome, list(events), round(seconds, 3), max(0, peak)))
    return found


def memory(key: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def watch(events: list[str], folder: Path) -> None:
    inside = str(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event in FORBIDDEN or (event == "import" and arguments[0] == CANARY):
            events.append(f"{event} {arguments[:2]}")
        elif event in WRITING and isinstance(arguments[0], (str, bytes, os.PathLike)):
            place = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 - a Path would be resolved by opening
            writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes and not place.startswith((inside, "/proc/self/clear_refs")):
                events.append(f"{event} {arguments[:2]}")

    sys.addaudithook(hook)


def run(folder: Path, write=write_corpus) -> list[Found]:
    """Write the corpus below a folder and examine it in a process of its own."""
    canary = folder / "canary"
    (folder / "corpus").mkdir()
    inputs = write(folder / "corpus", canary)
    (folder / f"{CANARY}.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "inputs.json").write_text(json.dumps(inputs))
    home = {
        "PYTHONPATH": f"{ROOT}:{folder}",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder / "corpus"),
    }
    words = [sys.executable, __file__, "examine", str(folder)]
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | home, timeout=600, cwd=folder / "corpus"
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = [Found(**row) for row in json.loads((folder / "found.json").read_text())]
    if canary.exists():
        found.append(Found("canary", "a payload has run", ["canary"], 0.0, 0))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder))
    bombs = [item for item in found if "bomb" in item.name]
    odd = [item for item in found if item.outcome not in ("refused", "accepted") or item.events]
    slow = [item for item in bombs if item.cpu_s >= SECOND or item.peak_bytes >= BOMB_BYTES]
    for item in odd + slow:
        print(f"{item.name}: {item.outcome} {item.events} {item.cpu_s} s, {item.peak_bytes / 2**20:.0f} MB")
    print(
        f"{len(found)} hostile inputs: {sum(bool(item.events) for item in found)} executed or escaped, "
        f"{len(odd)} that ended otherwise than read or refused in plain words, "
        f"{sum(item.outcome == 'accepted' for item in found)} harmless and read; "
        f"{len(bombs)} bombs: at most {max(item.cpu_s for item in bombs):.2f} s of CPU and "
        f"{max(item.peak_bytes for item in bombs) / 2**20:.0f} MB"
    )
    sys.exit(bool(odd or slow))


if __name__ == "__main__":
    if sys.argv[1:2] == ["examine"]:
        place = Path(sys.argv[2])
        rows = examine(json.loads((place / "inputs.json").read_text()), place / "corpus")
        (place / "found.json").write_text(json.dumps([asdict(row) for row in rows]))
    else:
        main()
