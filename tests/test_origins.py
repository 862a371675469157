"""A training that begins with the weights of another model: what is taken, what is refused, and that it resumes."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs_fixtures import (
    TINY,
    assert_same_run,
    command_runner,
    make_phantom,
    plug_pulled_at,
    state_of,
    train,
    write_recipe,
)

from pipeline import runs
from pipeline.archives import load_checkpoint
from pipeline.checkpoints import save_checkpoint
from pipeline.decisions import NOBODY_KNOWN
from pipeline.engines.steps import TrainingStep
from pipeline.errors import UserError
from pipeline.export.writing import write_export
from pipeline.networks import NETWORKS
from pipeline.planning.settings import Settings
from pipeline.runs import build, origins
from pipeline.runs.model_files import state_of as state_of_models
from pipeline.runs.models import load_model
from pipeline.runs.stored import read_config, read_decisions
from pipeline.runs.transfer import Axes, axes_of, shared_channels, transfer
from pipeline.types import Task

OPTIONS = {
    "dynunet": {"channels": [4, 4, 8]},
    "unet": {"channels": [4, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "resenc": {"channels": [4, 4, 8], "blocks": [1]},
    "wnet": {"channels": [4, 4, 8]},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("origins") / "phantom")


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("origins"), dataset, "model", max_steps=2)


class FirstStepError(Exception):
    pass


@pytest.fixture
def first_step(monkeypatch):
    """A function that trains up to the first step, and returns what that would have begun with."""

    def run(folder, dataset, name, *overrides, **changes):
        found = []

        def stop(self, *_):
            found.append(self)
            raise FirstStepError

        with monkeypatch.context() as patch, pytest.raises(FirstStepError):
            patch.setattr(TrainingStep, "__call__", stop)
            train(folder, dataset, name, *overrides, **changes)
        return found[0]

    return run


def average_of(run):
    return state_of(run)["average"]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


# Which weights fit


def settings_of(name, dimensions=3):
    data = {"dimensions": dimensions, "orientation": "RAS", "spacing_mm": (1.0,) * dimensions, "accumulate": 1}
    data |= {"normalization": ({"scheme": "zscore"},), "patch_size": (16,) * dimensions, "resident": False}
    data |= {"batch_size": 1, "unlabelled_batch_size": 1, "units": 1, "workers": 0, "crop_to_body": False}
    network = {"name": name, "options": OPTIONS[name], "members": 1, "memory_format": "contiguous", "recompute": False}
    augmentation = {"flip_axes": (), "rotation_degrees": 0.0, "scaling": 0.0, "elastic_mm": 0.0}
    return Settings.model_validate(
        {
            "dataset": Path(),
            "max_steps": 1,
            "precision": "float32",
            "data": data,
            "network": network,
            "augmentation": augmentation,
            "objective": ({"loss": "dice"},),
            "postprocessing": (),
            "regions": None,
        }
    )


def build_for(name, dimensions, task, seed):
    torch.manual_seed(seed)
    options = OPTIONS[name]
    return NETWORKS.build(
        name, options, spatial_dims=dimensions, in_channels=len(task.channels), out_channels=len(task.labels)
    ).eval()


LABELS = ("background", "liver", "spleen", "kidney", "aorta")


def task_with(names, channels=("T1", "T2")):
    return Task(dict(enumerate(names)), channels)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_labels_and_channels_in_another_order_make_the_same_network_in_that_order(name, dimensions):
    old, new = task_with(LABELS), task_with(("background", "aorta", "kidney", "liver", "spleen"), ("T2", "T1"))
    source, target = build_for(name, dimensions, old, 1), build_for(name, dimensions, new, 2)
    found = transfer(target.state_dict(), source.state_dict(), axes_of(settings_of(name, dimensions), new), (new, old))
    assert (found.new, found.partly, found.left) == ((), (), ())
    target.load_state_dict(found.weights)
    image = torch.randn(1, 2, *(16,) * dimensions)
    with torch.no_grad():
        expected, made = source(image), target(image.flip(1))
    order = [LABELS.index(label) for label in new.labels.values()]
    torch.testing.assert_close(made, expected[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dynunet", "segresnet"])
def test_shared_labels_keep_their_logits_beside_new_labels_and_lost_ones(name):
    old, new = task_with(LABELS), task_with(("air", "tumour", "aorta", "liver"))
    source, target = build_for(name, 3, old, 1), build_for(name, 3, new, 2)
    drawn = {key: value.clone() for key, value in target.state_dict().items()}
    found = transfer(drawn, source.state_dict(), axes_of(settings_of(name), new), (new, old))
    assert found.partly
    assert not found.new
    target.load_state_dict(found.weights)
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected, made = source(image), target(image)
    torch.testing.assert_close(made[:, [0, 2, 3]], expected[:, [0, 4, 1]], rtol=1e-4, atol=1e-5)
    for key in found.partly:
        torch.testing.assert_close(found.weights[key][1], drawn[key][1], rtol=0, atol=0)


def test_first_convolution_of_other_channels_is_new_and_all_else_is_taken():
    old, new = task_with(LABELS), task_with(LABELS, ("T1", "T2", "FLAIR"))
    source, target = build_for("dynunet", 3, old, 1), build_for("dynunet", 3, new, 2)
    found = transfer(target.state_dict(), source.state_dict(), axes_of(settings_of("dynunet"), new), (new, old))
    assert {key for key in found.new if target.state_dict()[key].ndim > 1} == {"input_block.conv1.conv.weight"}
    assert not found.partly
    assert not found.is_nothing


def test_channels_of_other_names_are_taken_in_their_order():
    def shared(ours, theirs):
        return shared_channels(Task({}, ours), Task({}, theirs))

    assert shared(("CT",), ("MRI",)) == {0: 0}
    assert shared(("a", "b"), ("b", "a")) == {0: 1, 1: 0}
    assert shared(("a", "b"), ("c", "a")) == {0: 0, 1: 1}
    assert shared(("a", "a"), ("a", "a")) == {0: 0, 1: 1}
    assert shared(("a",), ("a", "b")) == {}


def test_a_name_that_several_labels_have_stands_for_none_and_other_types_and_axes_do_not_fit():
    twice = task_with(("background", "liver", "liver"))
    once = task_with(("background", "liver", "spleen"))
    weight = torch.arange(6.0).reshape(3, 2)
    found = transfer({"head": torch.zeros(3, 2)}, {"head": weight}, {"head": Axes((0,), ())}, (once, twice))
    np.testing.assert_array_equal(found.weights["head"], [[0, 1], [0, 0], [0, 0]])
    for other in (weight.double(), weight[None], weight[:2], weight[:, :1]):
        found = transfer({"head": torch.zeros(3, 2)}, {"head": other}, {"head": Axes((0,), ())}, (once, once))
        assert (found.new, found.is_nothing) == (("head",), True)


# Whole trainings


def test_a_training_begins_with_the_models_averaged_weights_everywhere(model, dataset, first_step, tmp_path, capsys):
    objective = [{"loss": "dice"}, {"loss": "consistency", "on": "unlabelled", "weight": 0.1}]
    step = first_step(
        tmp_path, dataset, "run", f"start={model}", sources=[{"source": "mean_teacher"}], objective=objective
    )
    for network in (step.network, step.average.network, step.sources[0].teacher):
        assert_equal(network.state_dict(), average_of(model))
    assert "start: 8 of 8 weights are those of last-000002.pt, 0 partly" in capsys.readouterr().err
    taken = read_decisions(tmp_path / "run").taken
    assert (taken.whole, taken.partly, taken.new, taken.left) == (8, (), (), ())


def test_labels_are_matched_by_name_and_what_is_new_and_left_is_told(model, dataset, first_step, tmp_path, capsys):
    (first, _), (second, name) = [each for each in state_of(model)["task"]["labels"].items() if each[0]]
    labels = {name: second, "other": first}
    step = first_step(tmp_path, dataset, "run", f"start={model / 'checkpoints' / 'last-000002.pt'}", labels=labels)
    assert f"start: labels kept: background, {name}; new: other; left: " in capsys.readouterr().err
    settings = Settings.model_validate(read_config(tmp_path / "run").model_dump())
    task = Task({0: "background", 1: name, 2: "other"}, ("MRI",))
    drawn = build.build_network(settings, task).state_dict()
    old, new = average_of(model), step.network.state_dict()
    for part, axis in (("model.2.conv.weight", 1), ("model.2.conv.bias", 0)):  # A transposed convolution.
        rows = [new[part].select(axis, n) for n in range(3)]
        expected = [old[part].select(axis, 0), old[part].select(axis, 2), drawn[part].select(axis, 2)]
        torch.testing.assert_close(rows, expected, rtol=0, atol=0)
    assert read_decisions(tmp_path / "run").taken.partly == ("model.2.conv.weight", "model.2.conv.bias")


def test_differences_of_grid_and_patch_are_told_and_open_options_are_the_models(
    model, dataset, first_step, tmp_path, capsys
):
    data = TINY["data"] | {"spacing_mm": [2.5, 2.5, 3.0], "patch_size": "auto"}
    first_step(tmp_path, dataset, "run", f"start={model}", data=data, network={"name": "unet"})
    said = capsys.readouterr().err
    assert "start: data.spacing_mm is [2.5, 2.5, 3], the model's was [2.5, 2.5, 2.5]" in said
    assert "start: data.patch_size is [" in said
    assert read_config(tmp_path / "run").network.options.items() >= TINY["network"]["options"].items()


def test_a_run_resumes_to_the_bit_without_its_model_and_repeats_by_its_config(model, dataset, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    whole = train(tmp_path, dataset, "whole", f"start={own}")
    with plug_pulled_at(5):
        train(tmp_path, dataset, "broken", f"start={own}")
    shutil.move(own, tmp_path / "gone")
    assert_same_run(whole, train(tmp_path, dataset, "broken", f"start={own}", resume=True))
    shutil.move(tmp_path / "gone", own)
    request = runs.read_request(whole / "config.yaml")
    runs.train(request.recipe, tmp_path / "again", decided=request.decided)
    assert_same_run(whole, tmp_path / "again")
    with pytest.raises(UserError, match=r"start: the run has .*model', and now it would be None"):
        train(tmp_path, dataset, "whole", resume=True)


def test_a_changed_model_is_refused_only_where_it_is_needed(model, dataset, first_step, tmp_path):
    own = shutil.copytree(model, tmp_path / "model")
    first_step(tmp_path, dataset, "run", f"start={own}")
    state = state_of(own)
    state["average"] = {name: value + 1 for name, value in state["average"].items()}
    shutil.rmtree(own)
    save_checkpoint(own, "last", {key: value for key, value in state.items() if key != "format"})
    with pytest.raises(UserError, match="model-changed"):
        train(tmp_path, dataset, "run", f"start={own}", resume=True)
    shutil.rmtree(own)
    shutil.copytree(model, own)
    step = first_step(tmp_path, dataset, "run", f"start={own}", resume=True)
    assert_equal(step.network.state_dict(), average_of(model))


def test_members_begin_with_the_networks_of_a_file_in_turn(model, dataset, first_step, tmp_path):
    write_export(model, tmp_path / "one.fewmask", "model", "last", [])
    (one,) = load_checkpoint(tmp_path / "one.fewmask")["members"]
    two = copy.deepcopy(one) | {"network": {name: value + 1 for name, value in one["network"].items()}}
    torch.save(state_of_models([one, two], [], ""), tmp_path / "both.fewmask")
    network = TINY["network"] | {"members": 3}
    step = first_step(tmp_path, dataset, "run", f"start={tmp_path / 'both.fewmask'}", network=network)
    for member, expected in zip(step.network.members, (one, two, one), strict=True):
        assert_equal(member.state_dict(), expected["network"])


@pytest.mark.slow
def test_folds_all_begin_with_one_file_and_their_scores_say_so(model, dataset, tmp_path):
    file = tmp_path / "model.fewmask"
    write_export(model, file, "model", "last", [])
    recipe = runs.read_recipe(write_recipe(tmp_path, dataset, max_steps=1), [f"start={file}"])
    (scores,) = runs.cross_validate(recipe, tmp_path / "folds", 2)
    digests = {read_decisions(tmp_path / "folds" / f"fold-{n}").taken.sha256 for n in (1, 2)}
    assert digests == {origins.digest_of_model(file)}
    assert NOBODY_KNOWN in scores.notes
    file.unlink()
    runs.cross_validate(recipe, tmp_path / "folds", 2, resume=True)
    with pytest.raises(UserError, match=r"several-models.*\n.*fold-1"):
        train(tmp_path, dataset, "other", f"start={tmp_path / 'folds'}")
    assert not (tmp_path / "other").exists()


def test_scores_say_whether_the_model_was_trained_on_their_cases(model, dataset, first_step, tmp_path):
    split = {"train": ["phantom_000", "phantom_001"], "val": ["phantom_002", "phantom_003"]}
    (tmp_path / "splits.json").write_text(json.dumps([split]))
    seen = {"phantom_002", "phantom_003"} & set(runs_split(model)["labelled"])
    assert seen
    data = TINY["data"] | {"split": str(tmp_path / "splits.json"), "split_fold": 0}
    run = train(tmp_path, dataset, "run", f"start={model}", data=data, max_steps=1)
    told = f"which was trained on {len(seen)} of these cases"
    assert told in (run / "summary.json").read_text()
    assert told in load_model(run, "last").notes[0]
    first_step(tmp_path, dataset, "same", f"start={model}")
    assert read_decisions(tmp_path / "same").notes == ()
    # Of a model that began with another one nobody knows.
    first_step(tmp_path, dataset, "chained", f"start={run}")
    assert read_decisions(tmp_path / "chained").notes == (NOBODY_KNOWN,)
    for file in ("report.html", "summary.json"):
        assert str(model.parent) not in (run / file).read_text()
    assert str(model.parent) not in state_of(run)["recipe"]


def runs_split(run):
    return yaml.safe_load((run / "split.json").read_text())


@pytest.mark.parametrize(
    ("changes", "overrides", "told"),
    [
        ({"network": {"name": "dynunet", "options": {"channels": [4, 4, 8]}}}, (), "other-network.*\n.*network=unet"),
        ({}, ("data.dimensions=2", "data.patch_size=[16,16]", "data.spacing_mm=auto"), "mixed-dimensions"),
        ({}, ("network.options={channels: [5, 9], num_res_units: 0}",), "nothing-fits"),
        ({}, ("start={dataset}",), "missing-checkpoint"),
        ({}, ("start={dataset}/dataset.json",), "damaged-checkpoint"),
        ({}, ("start=nowhere.pt",), "missing-checkpoint"),
        ({}, ("start=3",), "start: "),
    ],
)
def test_what_does_not_fit_is_refused(model, dataset, tmp_path, changes, overrides, told):
    words = [word.replace("{dataset}", str(dataset)) for word in overrides]
    with pytest.raises(UserError, match=told):
        train(tmp_path, dataset, "run", f"start={model}", *words, **changes)
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_checkpoint_to_go_on_from_takes_no_other_start(model, dataset, tmp_path, monkeypatch, capsys):
    run = command_runner(monkeypatch, capsys)
    last = model / "checkpoints" / "last-000002.pt"
    code, _, said = run("train", last, f"dataset={dataset}", f"start={model}", "--output", tmp_path / "run")
    assert (code, "start: is for a training from its first step on" in said) == (2, True), said


def test_a_plan_names_the_model_and_trains_from_it(model, dataset, first_step, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = runs.read_recipe(write_recipe(tmp_path, dataset, network={"name": "unet"}), [f"start={model}"])
    runs.plan(recipe, tmp_path / "plan.yaml")
    planned = runs.read_recipe(tmp_path / "plan.yaml")
    assert planned.start == model
    assert planned.network.options.items() >= TINY["network"]["options"].items()
    (tmp_path / "copy.pt").write_bytes((model / "checkpoints" / "last-000002.pt").read_bytes())
    # A path in a recipe's file begins at its folder.
    step = first_step(tmp_path, dataset, "run", start="copy.pt")
    assert_equal(step.network.state_dict(), average_of(model))


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_model_is_data_and_judged_before_anything_of_its_size_is_made(model, dataset, tmp_path, capsys):
    (tmp_path / "harm.pt").write_bytes(pickle.dumps(Harm()))
    torch.save({"format": 2, "network": Harm()}, tmp_path / "harm2.pt")
    state = state_of(model)
    recipe = yaml.safe_load(state["recipe"])
    recipe["network"]["options"]["channels"] = [4096, 4096]
    save_checkpoint(tmp_path / "wide", "last", state | {"recipe": yaml.safe_dump(recipe)})
    nan = {name: value * float("nan") for name, value in state["average"].items()}
    save_checkpoint(tmp_path / "nan", "last", state | {"average": nan})
    told = {"harm.pt": "damaged-checkpoint", "harm2.pt": "unsafe-checkpoint", "wide": "foreign-checkpoint"}
    for name, code in (told | {"nan": "not finite"}).items():
        with pytest.raises(UserError, match=code):
            train(tmp_path, dataset, "run", f"start={tmp_path / name}", network={"name": "unet"})
    assert "harm" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
