"""The configuration of a MONAI bundle: what ``inference.json`` builds, and what ``metadata.json`` tells."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
IMAGE = "image"
OUTPUT = "pred"
WINDOWS = 4
FILL_IN = "to be filled in"


def inference_of(told: dict[str, Any], definitions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ``inference.json``.

    Args:
        told: What ``model.json`` would tell.
        definitions: Of networks that MONAI has a class for, whose weights are in ``models/model.pt``; none for
            programs.
    """
    seen = told["networks"][0]
    programs = [
        {"_target_": "scripts.networks.Program", "path": f"$@bundle_root + '/{each['file']}'"}
        for each in told["networks"]
    ]
    networks = list(definitions) or programs
    together = {"_target_": "scripts.networks.Together", "networks": networks}
    load = {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    }
    return {
        "imports": ["$import glob", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/masks'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii') + glob.glob(@dataset_dir + '/*.nii.gz'))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": networks[0] if len(networks) == 1 else together,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _preprocessing(seen)},
        "dataset": {
            "_target_": "Dataset",
            "data": f"$[{{'{IMAGE}': path}} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _inferer(seen),
        "postprocessing": {"_target_": "Compose", "transforms": _postprocessing(told)},
        "handlers": [load] if definitions else [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _preprocessing(seen: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"_target_": "LoadImaged", "keys": IMAGE, "reader": "NibabelReader", "ensure_channel_first": True},
        {"_target_": "scripts.transforms.Aligned", "keys": IMAGE},
        {"_target_": "Orientationd", "keys": IMAGE, "axcodes": seen["orientation"], "labels": None},
        {
            "_target_": "scripts.transforms.Spaced",
            "keys": IMAGE,
            "pixdim": seen["spacing_mm"],
            "mode": "bilinear",
            "padding_mode": "border",
        },
        {"_target_": "scripts.transforms.Normalized", "keys": IMAGE, "normalization": seen["normalization"]},
    ]


def _inferer(seen: dict[str, Any]) -> dict[str, Any]:
    kind = "MirroredSlices" if len(seen["patch_size"]) == 2 else "MirroredWindows"
    return {
        "_target_": f"scripts.inference.{kind}",
        "mirrored_axes": seen["mirrored_axes"],
        "roi_size": seen["patch_size"],
        "sw_batch_size": WINDOWS,
        "overlap": seen["overlap"],
        "mode": "gaussian",
        "padding_mode": "constant",
    }


def _postprocessing(told: dict[str, Any]) -> list[dict[str, Any]]:
    written = "int16" if max(map(int, told["labels"])) < 1 << 15 else "int32"
    return [
        {
            "_target_": "Invertd",
            "keys": OUTPUT,
            "transform": "@preprocessing",
            "orig_keys": IMAGE,
            "nearest_interp": False,
            "to_tensor": True,
        },
        {
            "_target_": "scripts.transforms.Decided",
            "keys": OUTPUT,
            "image_key": IMAGE,
            "label_values": [int(value) for value in told["labels"]],
            "painted": [region["label"] for region in told.get("regions", [])],
            "networks": len(told["networks"]),
            "postprocessing": told["postprocessing"],
        },
        {
            "_target_": "SaveImaged",
            "keys": OUTPUT,
            "output_dir": "@output_dir",
            "output_postfix": "",
            "separate_folder": False,
            "resample": False,
            "output_dtype": f"$numpy.{written}",
            "print_log": False,
        },
    ]


def metadata_of(told: dict[str, Any], title: str) -> dict[str, Any]:
    """Return ``metadata.json``; what only a person knows is to be filled in.

    Args:
        told: What ``model.json`` would tell.
        title: What the model does.
    """
    seen = told["networks"][0]
    names = [region["name"] for region in told.get("regions", [])] or list(told["labels"].values())
    window = {"spatial_shape": seen["patch_size"], "dtype": "float32", "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by Fewmask {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "pytorch-ignite": version("pytorch-ignite")},
        "task": title,
        "description": f"{title}; the model card is docs/README.md",
        "authors": FILL_IN,
        "copyright": FILL_IN,
        "intended_use": "Research. It is not a medical device.",
        "data_source": FILL_IN,
        "network_data_format": {
            "inputs": {
                IMAGE: {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": len(told["channels"]),
                    **window,
                    "value_range": [],
                    "channel_def": {str(n): name for n, name in enumerate(told["channels"])},
                }
            },
            "outputs": {
                OUTPUT: {
                    "type": "image",
                    "format": "logits",
                    "num_channels": len(names) * len(told["networks"]),
                    **window,
                    "value_range": [],
                    "channel_def": {str(n): name for n, name in enumerate(names * len(told["networks"]))},
                }
            },
        },
    }
