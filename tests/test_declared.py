"""What a checkpoint declares is judged without making anything of that size."""

import io
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import hostile
import pytest
import torch
import yaml
from runs_fixtures import ROOT

from pipeline.checkpoints import Checkpoint
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.errors import UserError
from pipeline.networks import NETWORKS
from pipeline.planning.devices import find_hardware
from pipeline.planning.hardware import Hardware
from pipeline.runs import build
from pipeline.runs.declared import refuse_declared, refuse_declared_patch
from pipeline.runs.models import load_model
from pipeline.runs.stored import read_about, read_written_of
from pipeline.types import Task

TASK = Task({0: "background", 1: "one"}, ("image",))
SMALL = {
    "unet": {"channels": [4, 8], "num_res_units": 0},
    "dynunet": {"channels": [4, 4, 8, 8]},
    "resenc": {"channels": [4, 4, 8], "blocks": [1, 1, 2]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "wnet": {"channels": [4, 4, 8]},
}


def recipe_of(network="unet", dimensions=3, patch=16, **choice):
    raw = yaml.safe_load(hostile.RECIPE)
    raw["network"] = {"name": network, "options": SMALL.get(network, {}), "memory_format": "contiguous"} | choice
    raw["data"] |= {"dimensions": dimensions, "spacing_mm": [1.0] * dimensions, "patch_size": [patch] * dimensions}
    raw["network"]["recompute"] = False
    return read_written_of(checkpoint_of({"recipe": yaml.safe_dump(raw)}))[0]


def checkpoint_of(changes, path="x.pt"):
    task = {"labels": dict(TASK.labels), "channels": list(TASK.channels)}
    about = {"format": 2, "step": 9, "best": None, "version": "0", "task": task, "recipe": hostile.RECIPE}
    return Checkpoint(path, about | changes)


def judge(recipe, weights, hardware=None):
    refuse_declared("x.pt", recipe, TASK, weights, hardware or find_hardware("cpu"))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("network", SMALL)
def test_every_network_passes_with_its_own_weights_alone(network, dimensions):
    recipe = recipe_of(network, dimensions)
    weights = build.make_network(recipe, TASK).state_dict()
    judge(recipe, weights)
    name = next(iter(weights))
    for other in (
        weights | {name: weights[name][..., :1]},
        weights | {"more": torch.zeros(1)},
        {key: value for key, value in weights.items() if key != name},
        {},
        weights | {name: 1.0},
        [1],
        None,
    ):
        with pytest.raises(UserError, match="foreign-checkpoint"):
            judge(recipe, other)


def test_several_networks_and_channels_last_pass():
    recipe = recipe_of("dynunet", members=3, memory_format="channels_last")
    weights = build.make_network(recipe, TASK).state_dict()
    assert isinstance(build.make_network(recipe, TASK), DeepEnsemble)
    judge(recipe, weights)


def test_one_tensor_under_many_names_is_no_model_that_needs_many():
    recipe = recipe_of("unet", members=9)
    one = build.make_network(recipe_of("unet"), TASK).state_dict()
    with pytest.raises(UserError, match="bytes of weights"):
        judge(recipe, {f"members.{n}.{key}": value for n in range(9) for key, value in one.items()})


@pytest.mark.parametrize("patch", [4096, 10**6, 10**9, 10**30])
def test_patch_that_the_machine_cannot_take_is_refused(patch):
    recipe = recipe_of("unet")
    weights = build.make_network(recipe, TASK).state_dict()
    data = recipe.data.model_copy(update={"patch_size": (patch,) * 3})
    with pytest.raises(UserError, match="take over"):
        judge(
            recipe.model_copy(update={"data": data}),
            weights,
            Hardware(device="cpu", bfloat16=False, cores=1, memory_bytes=2**35),
        )


@pytest.mark.parametrize(("network", "patch"), [("unet", 15), ("dynunet", 12), ("segresnet", 1), ("resenc", 2)])
def test_patch_that_the_network_cannot_take_is_refused(network, patch):
    recipe = recipe_of(network)
    made = build.make_network(recipe, TASK)
    refuse_declared_patch("x.pt", made, recipe, TASK)
    data = recipe.data.model_copy(update={"patch_size": (patch,) * 3})
    with pytest.raises(UserError, match=r"x\.pt: holds no model of ours: (it cannot take|its output for) patches of"):
        refuse_declared_patch("x.pt", made, recipe.model_copy(update={"data": data}), TASK)


def test_declarations_are_judged_without_weights_and_without_the_compiler():
    """PyTorch would load its compiler to fill weights without data, which takes seconds and makes a folder in /tmp."""
    code = (
        "import sys, torch, test_declared as here\n"
        "for name in here.SMALL:\n"
        "    recipe = here.recipe_of(name)\n"
        "    here.judge(recipe, here.build.make_network(recipe, here.TASK).state_dict())\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    paths = f"{ROOT}:{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_network_of_a_plugin_that_needs_data_is_left_to_itself(monkeypatch):
    def network(spatial_dims: int, in_channels: int, out_channels: int) -> torch.nn.Module:
        made = torch.nn.Conv3d(in_channels, out_channels, 3, padding="same")
        float(made.weight.detach().sum())  # What a tensor without data does not tell.
        return made

    monkeypatch.setitem(NETWORKS.components, "needy", network)
    recipe = recipe_of("needy")
    judge(recipe, build.make_network(recipe, TASK).state_dict())


@pytest.mark.parametrize("name", hostile.declarations())
def test_checkpoint_that_declares_more_than_it_holds_is_refused(tmp_path, name, monkeypatch):
    path = tmp_path / "checkpoints" / "last-000009.pt"
    path.parent.mkdir()
    path.write_bytes(hostile.declarations()[name])
    if name == "declared-sound":
        assert load_model(tmp_path, "last").step == 9
        return
    monkeypatch.setattr(build, "build_network", lambda *_: 1 / 0)
    with pytest.raises(UserError) as raised:
        load_model(tmp_path, "last")
    assert raised.value.problems[0].where == str(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_no_scans_fault(value):
    recipe = recipe_of()
    weights = build.make_network(recipe, TASK).state_dict()
    name = next(reversed(weights))
    weights[name].view(-1)[-1] = value
    with pytest.raises(UserError, match=f"holds no model of ours: {re.escape(name)} has values that are not finite"):
        judge(recipe, weights)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 0},
        {"step": "9"},
        {"step": 10**30},
        {"best": "high"},
        {"best": float("nan")},
        {"task": None},
        {"task": {"labels": {}, "channels": ["x"]}},
        {"task": {"labels": {0: "a", -1: "b"}, "channels": ["x"]}},
        {"task": {"labels": {0: "a", 1.9: "b"}, "channels": ["x"]}},
        {"task": {"labels": {0: "a", 1: 2}, "channels": ["x"]}},
        {"task": {"labels": {0: "a", 1: "b"}, "channels": []}},
        {"version": 3},
        {"recipe": None},
    ],
)
def test_what_a_checkpoint_tells_is_of_its_kind(changes):
    with pytest.raises(UserError, match=r"x\.pt: holds no run of ours"):
        read_about(checkpoint_of(changes))


@pytest.mark.parametrize(
    "text", ["", "x", "[1]", "dataset: .", hostile.RECIPE + "later: 1\n", "a: !!python/name:os.system"]
)
def test_recipe_of_a_checkpoint_is_a_recipe(text):
    with pytest.raises(UserError, match=r"x\.pt"):
        read_written_of(checkpoint_of({"recipe": text}))


def test_newer_checkpoint_says_that_the_program_is_older(tmp_path):
    path = tmp_path / "checkpoints" / "last-000009.pt"
    path.parent.mkdir()
    buffer = io.BytesIO()
    torch.save({"format": 3}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="update Fewmask"):
        load_model(tmp_path, "last")


class Hungry(torch.nn.Module):
    def forward(self, image):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def test_memory_that_runs_out_is_not_the_checkpoints_fault(tmp_path):
    settings = SimpleNamespace(data=SimpleNamespace(patch_size=(16, 16, 16), batch_size=1), device="cpu")
    task = SimpleNamespace(channels=("MR",), outputs=(0, 1))
    with pytest.raises(UserError, match=r"The recipe does not fit the device(.|\n)*to try the network once"):
        refuse_declared_patch(tmp_path / "last.pt", Hungry(), settings, task)
