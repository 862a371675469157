import re
import sys
from pathlib import Path

import pytest
from runs_fixtures import assert_same_run, make_phantom, plug_pulled_at, state_of, train

from pipeline import config
from pipeline.errors import UserError
from pipeline.losses import LOSSES
from pipeline.plugins import load_plugins, load_remembered, remember
from pipeline.runs.components import COMPONENTS

FOCAL = '''"""A loss of a user."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.losses import LOSSES, LabelLoss


@dataclass
class Knob:
    """A dataclass looks its own module up while the module runs."""

    gamma: float = 2.0


@LOSSES.register("users_focal")
class Focal(LabelLoss):
    """Focal loss."""

    def __init__(self, *, gamma: float = 2.0, **rest):
        if gamma < 0:
            raise ValueError(f"gamma is {gamma}; expected 0 or more")
        super().__init__(**rest)
        self.gamma = Knob(gamma).gamma

    def forward(self, logits, labels):
        p = (self.probabilities(logits) * self.one_hot(labels, like=logits)).sum(dim=1)
        return -((1 - p) ** self.gamma * p.clamp(min=1e-6).log()).mean()
'''


@pytest.fixture
def write(tmp_path):
    """A function that writes a plugin; what plugins of the test register and import is gone after it."""
    before, modules = dict(LOSSES.components), set(sys.modules)

    def write(text, name="plugin.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    yield write
    LOSSES.components.clear()
    LOSSES.components.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("fewmask_plugin_"):
            del sys.modules[name]


def problem_of(path):
    with pytest.raises(UserError) as raised:
        load_plugins([path])
    (problem,) = raised.value.problems
    assert (problem.where, problem.code) == (str(path), "bad-plugin")
    return problem.message


def parsed(**term):
    return config.parse({"dataset": "d", "objective": [term]}, "recipe", COMPONENTS)


def test_loss_of_a_plugin_is_chosen_and_judged_like_ours(write):
    load_plugins([write(FOCAL)])
    assert parsed(loss="users_focal", options={"gamma": 3}).objective[0].options == {"gamma": 3}
    for options, where in (({"gama": 3}, "gama"), ({"gamma": "3"}, "gamma")):
        with pytest.raises(UserError) as raised:
            parsed(loss="users_focal", options=options)
        assert [p.where for p in raised.value.problems] == [f"objective.0.options.{where}"]
    with pytest.raises(UserError, match="gamma is -1"):
        parsed(loss="users_focal", options={"gamma": -1})


def test_loss_of_a_plugin_is_among_the_nearest_names(write):
    load_plugins([write(FOCAL)])
    with pytest.raises(UserError, match="did you mean 'users_focal'"):
        parsed(loss="user_focal")


def test_plugin_runs_once_however_often_it_is_named(write, monkeypatch):
    path = write("import sys\nsys.plugin_runs = getattr(sys, 'plugin_runs', 0) + 1\n")
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "plugin_runs", 0, raising=False)
    load_plugins([path, path])
    load_plugins([path.relative_to(path.parent)])
    assert sys.plugin_runs == 1


def test_plugins_of_one_name_in_two_folders_both_run(write, tmp_path):
    (tmp_path / "other").mkdir()
    load_plugins([write(FOCAL), write(FOCAL.replace("users_focal", "others_focal"), "other/plugin.py")])
    assert {"users_focal", "others_focal"} <= set(LOSSES.names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n\ndef f(:\n", "line 3: SyntaxError"),
        (
            FOCAL.replace('    """Focal loss."""', '    against = "labels"'),
            "TypeError: Focal judges 'logits' against 'labels'; expected a name and a tuple of names",
        ),
        (FOCAL.replace("users_focal", "dice"), "ValueError: loss 'dice': there is one of that name already"),
    ],
)
def test_plugin_that_fails_is_a_users_mistake_with_its_line(write, text, message):
    assert message in problem_of(write(text))


def test_line_of_a_plugin_named_from_the_folder_it_is_in_is_told(write, tmp_path, monkeypatch):
    write("x = 1\ny = x / 0\n", "near.py")
    monkeypatch.chdir(tmp_path)
    assert problem_of(Path("near.py")).startswith("line 2: ZeroDivisionError")


def test_plugin_that_failed_runs_again_once_it_is_mended(write):
    path = write("1 / 0")
    problem_of(path)
    path.write_text(FOCAL + "# longer, so that no cached bytecode is taken for it\n")
    load_plugins([path])
    assert "users_focal" in LOSSES


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.py", "there is no such file"), ("notes.txt", "is no Python file"), (".", "is no Python file")],
)
def test_what_is_no_python_file_is_refused(write, tmp_path, name, message):
    write("1 / 0", "notes.txt")
    assert problem_of(tmp_path / name) == message


def test_one_of_two_plugins_that_was_changed_is_named_alone(write):
    plugins = [write(FOCAL), write("KNOWN = 1\n", "other.py")]
    load_plugins(plugins)
    run = remember(plugins)
    write("KNOWN = 2\n", "other.py")
    forget(plugins)
    with pytest.raises(UserError, match="was changed since"):
        load_remembered(run)
    forget(plugins)
    load_plugins(plugins[1:])
    load_remembered(run)
    assert "users_focal" in LOSSES


def test_a_plugin_that_was_moved_is_known_by_its_content(write, tmp_path):
    plugins = [write(FOCAL), write("KNOWN = 1\n", "other.py")]
    load_plugins(plugins)
    run = remember(plugins)
    (tmp_path / "elsewhere").mkdir()
    moved = plugins[0].rename(tmp_path / "elsewhere" / "moved.py")
    forget(plugins)
    with pytest.raises(UserError, match="is gone") as raised:
        load_remembered(run)
    assert "say where it is now" in raised.value.problems[0].remedy
    load_plugins([moved])
    load_remembered(run)
    assert "users_focal" in LOSSES
    forget([moved])


def forget(plugins):
    """As in another process."""
    for name in [name for name in sys.modules if name.startswith("fewmask_plugin_")]:
        if getattr(sys.modules[name], "__file__", None) in map(str, plugins):
            del sys.modules[name]
    LOSSES.components.pop("users_focal", None)


HEADS = {
    "loss": "from pipeline.losses import LOSSES, LabelLoss\n\n\n@LOSSES.register('mine')\nclass Mine(LabelLoss):\n",
    "plain": "from pipeline.losses import LOSSES\n\n\n@LOSSES.register('mine')\nclass Mine:\n",
    "metric": (
        "from pipeline.metrics.registered import METRICS, CaseMetric\n\n\n"
        "@METRICS.register('mine')\nclass Mine(CaseMetric):\n"
    ),
    "augmentation": (
        "from pipeline.data.augmentation import AUGMENTATIONS, IntensityAugmentation\n\n\n"
        "@AUGMENTATIONS.register('mine')\nclass Mine(IntensityAugmentation):\n"
    ),
}


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("loss", "pass", "loss 'mine' has no forward(self, logits, label)"),
        ("loss", "def forward(self, logits): ...", "called as forward(self, logits, label), and has forward(self, log"),
        (
            "plain",
            "def forward(self, logits, labels): ...",
            "loss 'mine' is no class derived from LabelLoss or ImageLoss",
        ),
        ("metric", "pass", "metric 'mine' has no __call__(self, truth, prediction, spacing_mm)"),
        ("metric", "def __call__(self, truth): ...", "called as __call__(self, truth, prediction, spacing_mm)"),
        ("augmentation", "def apply(self, image, drawn): ...", "augmentation 'mine' has no draw(self, rng, patch)"),
    ],
)
def test_a_part_that_lacks_something_is_refused_with_its_file_and_line(write, kind, body, words):
    path = write(f"{HEADS[kind]}    {body}\n")
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load_plugins([path])
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.message.startswith("line 4: TypeError")
    assert not any("mine" in registry for registry in (LOSSES, COMPONENTS.metrics, COMPONENTS.augmentations))


ADAFACTOR = """
import torch

from pipeline.engines.optimizers import OPTIMIZERS


@OPTIMIZERS.register("adafactor")
def adafactor(parameters, learning_rate, weight_decay):
    return torch.optim.Adafactor(parameters, lr=learning_rate, weight_decay=weight_decay)
"""


def test_a_plugins_optimizer_may_keep_what_it_likes_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plugin = tmp_path / "adafactor.py"
    plugin.write_text(ADAFACTOR)
    dataset = make_phantom(tmp_path / "scans")
    settings = {"plugins": [str(plugin)], "optimizer": {"name": "adafactor"}, "objective": [{"loss": "dice"}]}
    whole = train(tmp_path, dataset, "whole", **settings)
    with plug_pulled_at(4):
        train(tmp_path, dataset, "run", **settings)
    run = train(tmp_path, dataset, "run", resume=True, **settings)
    assert any("row_var" in moments for moments in state_of(run)["optimizer"]["state"].values())
    assert_same_run(whole, run)
