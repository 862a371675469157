"""Export as a MONAI bundle: a folder that ``python -m monai.bundle run`` predicts with."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets import DynUNet, SegResNet, UNet

from pipeline.errors import Problem, UserError
from pipeline.export import bundle_scripts, runner
from pipeline.export.bundle_configuration import inference_of, metadata_of
from pipeline.export.bundle_scripts.networks import Together
from pipeline.export.description import describe
from pipeline.export.destination import new_folder
from pipeline.export.networks import as_bytes, plain_network, refuse_other_output, trace, tried
from pipeline.networks import SupervisedDynUNet
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from torch import nn

    from pipeline.export.content import Content

SCRIPTS = ("__init__.py", "inference.py", "networks.py", "transforms.py")
# The head of the script that holds what the program of an ONNX export does to arrays, too.
ARRAYS = '''"""How intensities are normalised, and what is changed in a predicted label map."""

import sys
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.float32]
Labels = NDArray[Any]
Mask = NDArray[np.bool_]


'''


def write_bundle(path: Path, content: Content) -> None:
    """Write a bundle.

    A network that MONAI has a class for is written as weights and the arguments of that class; any other as a program
    of ``torch.export``.

    Args:
        path: The folder; it must not be there.
        content: What is exported.

    Raises:
        UserError: It is there, the networks of an ensemble see scans in different ways, or one cannot be exported.
    """
    count = len(content.predictors)
    told = describe(content, [f"models/network-{number}.pt2" for number in range(1, count + 1)])
    _refuse_unlike(told["networks"])
    definitions = [_definition(predictor.network, content) for predictor in content.predictors]
    with new_folder(path) as folder:
        for name in ("configs", "docs", "models", "scripts"):
            (folder / name).mkdir()
        if all(definitions):
            _write_weights(folder, content, [definition for definition in definitions if definition])
        else:
            definitions = []
            _write_programs(folder, content, told)
        write_json(folder / "configs" / "inference.json", inference_of(told, [each for each in definitions if each]))
        title = content.card.strip().splitlines()[0].strip("# ")
        write_json(folder / "configs" / "metadata.json", metadata_of(told, title))
        (folder / "docs" / "README.md").write_text(content.card, encoding="utf-8")
        sources = Path(bundle_scripts.__file__).parent
        for name in SCRIPTS:
            (folder / "scripts" / name).write_bytes((sources / name).read_bytes())
        parts = (runner.find_outside, runner.normalized, runner.components, runner.change, runner.enclosing)
        functions = "\n\n".join(inspect.getsource(each) for each in parts)
        (folder / "scripts" / "arrays.py").write_text(ARRAYS + functions, encoding="utf-8")


def _refuse_unlike(networks: list[dict[str, Any]]) -> None:
    """Refuse an ensemble of which the networks see a scan in different ways: a bundle prepares it once."""
    for key in networks[0].keys() - {"file"}:
        if any(each[key] != networks[0][key] for each in networks):
            message = "differs between the networks of the cross-validation, and a bundle has one for all"
            problem = Problem(key, "bad-network", message, "choose --format model or onnx")
            raise UserError("The model cannot be exported in this format.", [problem])


def _definition(network: nn.Module, content: Content) -> dict[str, Any] | None:
    """Return the class of MONAI's that a network is and the arguments that make it; None where there is none."""
    classes = {"in_channels": len(content.model.task.channels), "out_channels": len(content.model.task.outputs)}
    shown: Any = network  # MONAI's networks tell their arguments, and no type of them.
    if type(network) is UNet:
        return {
            "_target_": "monai.networks.nets.UNet",
            "spatial_dims": shown.dimensions,
            **classes,
            "channels": list(shown.channels),
            "strides": [_plain(stride) for stride in shown.strides],
            "num_res_units": shown.num_res_units,
            "norm": "instance",
        }
    if type(network) is SupervisedDynUNet:
        keys = ("kernel_size", "strides", "upsample_kernel_size", "filters")
        return {
            "_target_": "monai.networks.nets.DynUNet",
            "spatial_dims": shown.spatial_dims,
            **classes,
            **{key: [_plain(each) for each in getattr(shown, key)] for key in keys},
            "norm_name": ["instance", {"affine": True}],
            "res_block": shown.conv_block.__name__ == "UnetResBlock",
        }
    if type(network) is SegResNet:
        return {
            "_target_": "monai.networks.nets.SegResNet",
            "spatial_dims": shown.spatial_dims,
            "init_filters": shown.init_filters,
            **classes,
            "blocks_down": list(shown.blocks_down),
            "blocks_up": list(shown.blocks_up),
        }
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def _write_weights(folder: Path, content: Content, definitions: list[dict[str, Any]]) -> None:
    """Write the weights of networks that MONAI has a class for, once it is seen that they are the same networks."""
    made = []
    classes: dict[str, type[nn.Module]] = {"UNet": UNet, "DynUNet": DynUNet, "SegResNet": SegResNet}
    for definition, predictor in zip(definitions, content.predictors, strict=True):
        arguments = {key: value for key, value in definition.items() if key != "_target_"}
        network = classes[definition["_target_"].rpartition(".")[2]](**arguments).eval()
        weights = plain_network(predictor.network).state_dict()
        network.load_state_dict({name: weights[name].clone() for name in network.state_dict()})
        windows, expected = tried(predictor, len(content.model.task.channels))
        with torch.no_grad():
            refuse_other_output(content.model.settings.network.name, network(windows), expected)
        made.append(network)
    whole = made[0] if len(made) == 1 else Together(made)
    with (folder / "models" / "model.pt").open("wb") as stream:  # An open file has no name that torch would write down.
        torch.save(whole.state_dict(), stream)


def _write_programs(folder: Path, content: Content, told: dict[str, Any]) -> None:
    for each, predictor in zip(told["networks"], content.predictors, strict=True):
        program = trace(predictor, len(content.model.task.channels), content.model.settings.network.name)
        (folder / each["file"]).write_bytes(as_bytes(program))
