"""A part of one's own is a class in a file: the files of CONTRIBUTING.md, as plugins of a recipe."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fewmask
from runs_fixtures import TINY, assert_same_run, make_phantom, plug_pulled_at, state_of, train, write_recipe

from pipeline import config, runs
from pipeline.engines.optimizers import OPTIMIZERS
from pipeline.engines.schedules import SCHEDULES, Schedule
from pipeline.errors import UserError
from pipeline.metrics.case import score_case
from pipeline.metrics.registered import METRICS, CaseMetric
from pipeline.runs.components import COMPONENTS

PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = {name: text for text, name in re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.DOTALL)}
DICE = {"loss": "dice"}
CHANGES = {
    "peer.py": {
        "sources": [{"source": "peer"}],
        "objective": [DICE, {"loss": "dice", "judges": "peer_logits", "weight": 0.5}],
    },
    "stripes.py": {"augmentation": {"more": [{"augmentation": "stripes", "options": {"most": 0.9}}]}},
    "extent.py": {"metrics": [{"metric": "extent_error_mm"}, {"metric": "extent_error_mm", "options": {"axis": 2}}]},
    "without_last.py": {"postprocessing": [{"step": "without_last", "options": {"planes": 1000}}]},
    "rmsprop.py": {"optimizer": {"name": "rmsprop", "options": {"momentum": 0.5}, "schedule": "cosine"}},
}
# Those that take part in a step.
TRAINED = ("peer.py", "stripes.py", "rmsprop.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    make_phantom(folder / "data")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def plain(place):
    return train(place, place / "data", "plain", objective=[DICE])


def trained(place, run, name, **more):
    changes = {"objective": [DICE], "plugins": [str(place / name)]} | CHANGES[name] | more
    return train(place, place / "data", run, **changes)


def table(run):
    with (run / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_of_the_page_is_tried():
    assert FILES.keys() == CHANGES.keys()


@pytest.mark.parametrize("name", TRAINED)
def test_a_part_takes_part_in_training_and_resumes_to_the_last_bit(place, plain, name):
    whole = trained(place, f"{name}-whole", name)
    with plug_pulled_at(5):
        trained(place, f"{name}-stopped", name)
    assert_same_run(
        whole,
        train(
            place,
            place / "data",
            f"{name}-stopped",
            resume=True,
            **({"objective": [DICE], "plugins": [str(place / name)]} | CHANGES[name]),
        ),
    )
    weights = [state_of(run)["network"] for run in (plain, whole)]
    same = all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert same == (name == "peer.py"), "a second network alone does not change the first"
    runs.validate(whole)


def test_a_metric_is_a_column_of_the_scores_and_of_the_report(place):
    run = trained(place, "metric", "extent.py")
    rows = table(run)
    assert {"extent_error_mm", "extent_error_mm_2"} <= rows[0].keys()
    assert all(float(row["extent_error_mm"]) % 1.25 < 1e6 for row in rows if row["outcome"] != "absent")
    summary = json.loads((run / "summary.json").read_text())
    described = summary["classes"][0]["metrics"]["extent_error_mm_2"]
    values = [float(row["extent_error_mm_2"]) for row in rows if row["label"] == "1" and row["extent_error_mm_2"]]
    assert described["mean"] == pytest.approx(np.mean(values))
    assert described["interval"] is None
    assert "interval" in described["reasons"]
    assert "Extent error (mm)" in (run / "report.html").read_text()
    before = (run / "cases.csv").read_bytes()
    runs.validate(run)
    assert (run / "cases.csv").read_bytes() == before
    comparison = runs.compare(run, shutil.copytree(run, place / "copy"), place / "comparison")
    assert comparison.n_cases == len({row["case"] for row in rows})


def test_a_metric_of_a_plugin_is_found_again_by_a_later_command(place):
    trained(place, "later", "extent.py")
    done = fewmask("validate", place / "later")
    assert done.returncode == 0, done.stderr
    done = fewmask("validate", place / "later", XDG_STATE_HOME=str(place / "nobody"))
    assert done.returncode == 2
    assert "you have not named it here before" in done.stderr
    done = fewmask("validate", place / "later", "--plugin", place / "extent.py", XDG_STATE_HOME=str(place / "nobody"))
    assert done.returncode == 0, done.stderr


def test_a_post_processing_step_changes_scores_and_masks(place, tmp_path):
    run = trained(place, "step", "without_last.py")
    assert {row["outcome"] for row in table(run)} <= {"missed", "absent"}
    assert {row["dice_expected"] for row in table(run) if row["outcome"] == "missed"} <= {"0.0", ""}
    scan = next((place / "data" / "imagesTr").iterdir())
    (mask,) = runs.predict(run, [scan], tmp_path / "masks")
    import nibabel as nib

    assert not nib.load(mask).get_fdata().any()


def test_a_step_of_ours_follows_a_recipe(place, plain, tmp_path):
    steps = [{"step": "drop_small", "options": {"label": label, "least_ml": 1e6}} for label in (1, 2)]
    run = train(place, place / "data", "small", objective=[DICE], postprocessing=steps)
    assert {row["outcome"] for row in table(run)} <= {"missed", "absent"}
    unknown = [{"step": "keep_largest", "options": {"label": 7}}]
    with pytest.raises(UserError, match=r"postprocessing\.0\.options\.label: is 7"):
        train(place, place / "data", "unknown", objective=[DICE], postprocessing=unknown)
    assert not (place / "unknown" / "config.yaml").exists()


def problems_of(**changes):
    with pytest.raises(UserError) as error:
        config.parse(TINY | {"dataset": "d"} | changes, "recipe", COMPONENTS)
    return {problem.where: problem.message for problem in error.value.problems}


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"augmentation": {"more": [{"augmentation": "nois"}]}}, "augmentation.more.0.augmentation", "'noise'"),
        (
            {"augmentation": {"more": [{"augmentation": "noise", "options": {"sigma": -1}}]}},
            "augmentation.more.0.options.sigma",
            "not -1",
        ),
        ({"augmentation": {"more": [{"augmentation": "noise"}]}}, "augmentation.more.0.options.sigma", "is not given"),
        ({"optimizer": "sdg"}, "optimizer.name", "'sgd'"),
        ({"optimizer": {"name": "sgd", "options": {"momentum": 2.0}}}, "optimizer.options.momentum", "not 2"),
        ({"optimizer": {"name": "sgd", "options": {"nestrov": True}}}, "optimizer.options.nestrov", "'nesterov'"),
        ({"optimizer": {"options": {"momentum": 0.5}}}, "optimizer.options.momentum", "adamw has no options"),
        ({"optimizer": {"schedule": "polly"}}, "optimizer.schedule.name", "'poly'"),
        (
            {"optimizer": {"schedule": {"options": {"power": 0}}}},
            "optimizer.schedule.options.power",
            "not 0",
        ),
        ({"metrics": [{"metric": "centre_distance"}]}, "metrics.0.metric", "'centre_distance_mm'"),
        ({"postprocessing": [{"step": "fill_hole"}]}, "postprocessing.0.step", "'fill_holes'"),
        (
            {"postprocessing": [{"step": "fill_holes", "options": {"label": 0}}]},
            "postprocessing.0.options.label",
            "not 0",
        ),
    ],
)
def test_a_mistake_in_a_choice_is_told_with_the_nearest_name(changes, where, message):
    assert message in problems_of(**changes)[where]


def test_segments_are_not_post_processed():
    cut = [{"loss": "ncut", "on": "all", "options": {"radius": 2}}]
    steps = [{"step": "keep_largest", "options": {"label": 1}}]
    assert "no names yet" in problems_of(segments=3, objective=cut, postprocessing=steps)["postprocessing"]


def test_nesterov_without_momentum_is_refused(place):
    with pytest.raises(UserError, match=r"optimizer\.options: sgd: Nesterov"):
        train(place, place / "data", "nesterov", optimizer={"name": "sgd", "options": {"momentum": 0.0}})


def test_sgd_with_the_weight_decay_of_adamw_is_warned_of(place, capsys):
    choice = {"name": "sgd", "learning_rate": 0.01, "warmup": 0.0}
    train(place, place / "data", "faded", max_steps=1, optimizer=choice | {"weight_decay": 0.5})
    assert "optimizer.weight_decay=0.5 is meant for AdamW" in capsys.readouterr().err
    train(place, place / "data", "sound", max_steps=1, optimizer=choice | {"weight_decay": 3e-5})
    assert "AdamW" not in capsys.readouterr().err


def test_sgd_and_poly_train_and_resume_to_the_last_bit(place):
    changes = {"optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 3e-5, "warmup": 0.0}}
    whole = train(place, place / "data", "sgd", **changes)
    with plug_pulled_at(5):
        train(place, place / "data", "sgd-stopped", **changes)
    assert_same_run(whole, train(place, place / "data", "sgd-stopped", resume=True, **changes))
    assert set(state_of(whole)["optimizer"]["state"][0]) == {"momentum_buffer"}


def test_sgd_is_pytorch_s_and_the_schedule_is_nnu_net_s():
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    ours = OPTIMIZERS.build("sgd", {}, parameters=weights[:1], learning_rate=0.01, weight_decay=3e-5)
    theirs = torch.optim.SGD(weights[1:], 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True)
    for step in range(5):
        for weight in weights:
            weight.grad = torch.full((3,), 1.0 + step)
        ours.step()
        theirs.step()
    torch.testing.assert_close(weights[0], weights[1])
    rate = Schedule(0.01, 0.0, SCHEDULES.build("poly", {}))
    for epoch in (0, 1, 500, 999):  # nnunetv2, PolyLRScheduler: initial_lr * (1 - current_step / max_steps) ** 0.9
        assert rate(epoch / 1000) == pytest.approx(0.01 * (1 - epoch / 1000) ** 0.9)
    constant = Schedule(0.01, 0.5, SCHEDULES.build("constant", {}))
    assert [constant(progress) for progress in (0.25, 0.5, 1.0)] == [0.005, 0.01, 0.01]


def test_a_metric_that_returns_nonsense_is_told():
    class Broken(CaseMetric):
        def __call__(self, truth, prediction, spacing_mm):
            return float("nan")

    truth = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(UserError, match="broken: returned nan for the case c1, which is neither a finite number nor"):
        score_case("c1", truth, truth, {1: "one"}, (1.0, 1.0, 1.0), metrics={"broken": Broken()})


def test_distance_of_centres_is_scipy_s():
    from scipy.ndimage import center_of_mass

    rng = np.random.default_rng(0)
    for _ in range(20):
        masks = rng.random((2, 5, 6, 7)) < 0.3
        spacing = tuple(rng.uniform(0.5, 3, 3))
        centres = [np.array(center_of_mass(mask)) * spacing for mask in masks]
        found = METRICS.build("centre_distance_mm", {})(*masks, spacing)
        assert found == pytest.approx(float(np.linalg.norm(centres[0] - centres[1])))


def test_absent_classes_have_no_number_and_no_metric_may_be_called_as_a_column_is():
    empty = np.zeros((2, 2, 2), np.uint8)
    metrics = {"centre_distance_mm": METRICS.build("centre_distance_mm", {})}
    (result,) = score_case("c1", empty, empty, {1: "one"}, (1.0, 1.0, 1.0), metrics=metrics)
    assert result.more == {"centre_distance_mm": None}
    with pytest.raises(ValueError, match="there is one of that name already"):
        METRICS.register("dice")(object)


def test_components_lists_them(place):
    done = fewmask("components")
    for name in ("deform", "low_resolution", "sgd", "poly", "centre_distance_mm", "fill_holes"):
        assert f"\n  {name}: " in done.stdout, name


def test_a_recipe_with_every_kind_of_part_is_written_and_read_again(place):
    changes = {key: value for name in FILES for key, value in CHANGES[name].items()}
    plugins = [str(place / name) for name in FILES]
    recipe = runs.read_recipe(write_recipe(place, place / "data", plugins=plugins, **changes))
    (place / "again.yaml").write_text(config.dump(recipe))
    assert runs.read_recipe(place / "again.yaml") == recipe
