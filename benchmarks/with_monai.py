"""MONAI's `SupervisedTrainer` on what our plan has chosen, for comparison: grid, patch, batch, network, rate and decay.

Loading, augmentation, sampling and loss are MONAI's: `CacheDataset`, two patches in three centred on foreground,
`DiceCELoss` (of regions `DiceLoss`) under deep supervision, AdamW with our warm-up and schedule, in the precision that
ours takes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Events
from in_precision import InPrecision
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss, DiceLoss
from monai.utils import set_determinism

from pipeline import nifti, runs
from pipeline.bounds import seconds_of
from pipeline.engines.schedules import Schedule
from pipeline.runs import build
from pipeline.runs.planning import prepare
from pipeline.runs.predictors import build_predictor
from pipeline.runs.segments import task_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.prediction.predictor import Predictor
    from pipeline.types import Task

# Steps before those that are timed, and how many are.
WARM, TIMED = 5, 8


@dataclass(frozen=True)
class Trained:
    """What came of a training: the predictor, the steps, the samples of each, and the seconds that they took."""

    predictor: Predictor
    steps: int
    batch: int
    took_s: float


def train(words: Sequence[str], seed: int, *, budget: str | None = None, steps: int = 0, samples: int = 0) -> Trained:
    """Train.

    Args:
        words: What `fewmask train` would be given: a recipe and settings.
        seed: Of MONAI's randomness.
        budget: The time that the steps have, loading and caching not counted, where no number of steps is given.
        steps: Their number.
        samples: In the place of their number, how many samples they have together.
    """
    set_determinism(seed)
    recipe, *settings = words
    prepared = prepare(runs.read_recipe(Path(recipe), settings))
    planned, task = prepared.plan.recipe, task_of(prepared.plan.recipe, prepared.index)
    network, device = build.build_network(planned, task), torch.device(planned.device)
    files = [{"image": list(map(str, case.images)), "label": str(case.label)} for case in prepared.split.labelled]
    axes = nib.load(files[0]["label"]).ndim
    # One thread: of the first files that several read at once, channels go missing (MONAI 1.6.1).
    data = CacheDataset(files, transforms(planned, task, axes), progress=False, num_workers=1)
    workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    batch = min(planned.data.batch_size, len(files))
    loader = DataLoader(data, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
    steps = steps or -(-samples // batch)
    rate, decay = planned.optimizer.learning_rate, planned.optimizer.weight_decay
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    schedule = Schedule(rate, planned.optimizer.warmup)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    # Of regions Dice alone, as MONAI's own tutorial has it: the cross-entropy of DiceCELoss is one between channels.
    loss = DiceLoss(sigmoid=True) if task.regions else DiceCELoss(to_onehot_y=True, softmax=True)
    started = time.perf_counter()

    def trainer() -> SupervisedTrainer:
        return SupervisedTrainer(
            device=device,
            max_epochs=10**6,
            train_data_loader=loader,
            network=InPrecision(network, planned.precision) if device.type == "cpu" else network,
            optimizer=optimizer,
            loss_function=DeepSupervisionLoss(loss),
            amp=device.type == "cuda",
            decollate=False,
        )

    if not steps:
        trial, times = trainer(), []
        trial.add_event_handler(Events.ITERATION_COMPLETED, lambda: times.append(time.perf_counter()))
        trial.add_event_handler(Events.ITERATION_COMPLETED(once=WARM + TIMED), lambda: trial.terminate())
        trial.run()
        step_s = (times[-1] - times[WARM - 1]) / (len(times) - WARM)
        network.load_state_dict(kept)
        optimizer.state.clear()
        steps = max(1, int((seconds_of(str(budget)) - (time.perf_counter() - started)) / step_s))
    engine = trainer()

    def set_rate() -> None:
        progress = max(engine.state.iteration - 1, 1) / steps
        for group in optimizer.param_groups:
            group["lr"] = schedule(min(1.0, progress))

    engine.add_event_handler(Events.ITERATION_STARTED, set_rate)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=steps), lambda: engine.terminate())
    engine.run()
    return Trained(build_predictor(planned, task, network), steps, batch, time.perf_counter() - started)


def predict(trained: Trained, scans: Mapping[str, list[Path]], masks: Path) -> None:
    """Write the mask of each scan, whose channels may be files of their own, through our predictor."""
    masks.mkdir()
    for name, files in scans.items():
        nifti.save_labels(masks / name, trained.predictor(files), nifti.load(files[0]))


def transforms(recipe: Any, task: Task, axes: int) -> mt.Compose:
    """Return MONAI's transforms with the plan's grid, patch and normalisation, and the recipe's augmentation.

    Args:
        recipe: The plan.
        task: Its labels become classes, or the channels of regions.
        axes: Of the files: slices of volumes are cut as patches of one slice.
    """
    keys, strength = ("image", "label"), recipe.augmentation
    angle, flat = float(np.deg2rad(strength.rotation_degrees)), len(recipe.data.patch_size) == 2
    of_volumes = flat and axes == 3
    spacing = [*recipe.data.spacing_mm, *([-1] if of_volumes else [])]  # -1 keeps an axis as it is.
    patch = [*recipe.data.patch_size, *([1] if of_volumes else [])]
    values = list(task.labels)
    classes = mt.MapLabelValued("label", values, list(range(len(values))))
    regions = mt.Lambdad("label", lambda label: torch.cat([_is_in(label, each.values) for each in task.regions]))
    return mt.Compose(
        [
            mt.LoadImaged(keys),
            mt.EnsureChannelFirstd(keys),
            mt.Orientationd(keys, axcodes="RAS", labels=None),
            mt.Spacingd(keys, pixdim=spacing, mode=("bilinear", "nearest")),
            mt.Lambdad("image", lambda image: _normalized(image, recipe.data.normalization)),
            *([] if task.regions else [classes]),
            mt.SpatialPadd(keys, patch),
            mt.EnsureTyped(keys, track_meta=False),
            mt.FgBgToIndicesd("label"),
            mt.RandCropByPosNegLabeld(
                keys, "label", patch, pos=2, neg=1, fg_indices_key="label_fg_indices", bg_indices_key="label_bg_indices"
            ),
            mt.SelectItemsd(keys),
            *([mt.SqueezeDimd(keys, dim=-1)] if of_volumes else []),
            *(mt.RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in strength.flip_axes),
            mt.RandAffined(
                keys,
                prob=0.5,
                rotate_range=(angle,) * (1 if flat else 3),
                scale_range=(strength.scaling,) * len(recipe.data.patch_size),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            mt.RandGaussianNoised("image", prob=0.2, std=strength.noise),
            mt.RandScaleIntensityd("image", strength.brightness, prob=0.3),
            mt.RandAdjustContrastd("image", prob=0.3, gamma=(1 - strength.gamma, 1 + strength.gamma)),
            *([regions] if task.regions else []),
        ]
    )


def _is_in(label: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    return torch.isin(label, torch.tensor(values, dtype=label.dtype)).float()


def _normalized(image: Any, ways: Sequence[Any]) -> Any:
    """Return an image ``[C, …]`` whose channels are normalised as the plan says."""
    done = [
        mt.NormalizeIntensity(nonzero=True)(channel[None])
        if way.scheme == "zscore"
        else (channel[None].clip(way.low, way.high) - way.mean) / way.std
        for channel, way in zip(image, ways, strict=True)
    ]
    return torch.cat(done)
