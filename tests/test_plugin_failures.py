"""What a plugin does wrong while it is used is one message with its file and line, whatever it is that fails."""

import sys

import nibabel as nib
import pytest
import yaml
from commands import fewmask
from registered import parts_restored
from runs_fixtures import TINY, command_runner, make_phantom

from pipeline import api, api_training, runs
from pipeline.errors import UserError
from pipeline.model import load

LOSS = '''from pipeline.losses import LOSSES, LabelLoss

@LOSSES.register("theirs")
class Theirs(LabelLoss):
    """Theirs."""

    def forward(self, logits, labels):
        {body}
'''
NETWORK = '''import torch
from pipeline.networks import NETWORKS

class Net(torch.nn.Module):
    def __init__(self, dims, channels, classes):
        super().__init__()
        self.layer = (torch.nn.Conv2d, torch.nn.Conv3d)[dims - 2](channels, classes, 1)

    def forward(self, image):
        {body}

@NETWORKS.register("theirs")
def theirs(spatial_dims, in_channels, out_channels):
    """Theirs."""
    return Net(spatial_dims, in_channels, out_channels)
'''
SOURCE = '''from pipeline.engines.sources import SOURCES, Source

@SOURCES.register("theirs")
class Theirs(Source):
    """Theirs."""

    provides = ("theirs",)

    def __call__(self, known):
        {body}
'''
LAYOUT = '''from pipeline.data.layouts import LAYOUTS
from pipeline.data.layouts.dataset import Layout

@LAYOUTS.register("theirs")
class Theirs(Layout):
    """Theirs."""

    @classmethod
    def detect(cls, source):
        return None

    def read(self, source, root):
        {body}
'''
AUGMENTATION = '''
from pipeline.data.augmentation import AUGMENTATIONS, IntensityAugmentation
@AUGMENTATIONS.register("theirs")
class Theirs(IntensityAugmentation):
    """Theirs."""

    def draw(self, rng, patch):
        return 1

    def apply(self, image, drawn):
        {body}
'''
METRIC = '''
from pipeline.metrics.registered import METRICS, CaseMetric
@METRICS.register("theirs")
class Theirs(CaseMetric):
    """Theirs."""

    def __call__(self, truth, prediction, spacing_mm):
        {body}
'''
SUPERVISED = {"objective": [{"loss": "dice"}]}
OF_THEIRS = {"objective": [{"loss": "dice"}, {"loss": "theirs", "weight": 0.5}]}
FROM_SOURCE = {"sources": [{"source": "theirs"}], "objective": [{"loss": "dice", "judges": "theirs"}]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("failures") / "phantom", labelled=2, unlabelled=1)


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    with parts_restored():
        yield


def written(tmp_path, dataset, text, **changes):
    """The paths of a plugin and of a recipe that uses it."""
    plugin = tmp_path / "theirs.py"
    plugin.write_text(text)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(TINY | {"dataset": str(dataset), "plugins": [str(plugin)], **changes}))
    return plugin, recipe


def problem_of(tmp_path, recipe):
    with pytest.raises(UserError) as raised:
        api_training.train(recipe, tmp_path / "run", settings={"max_steps": 2})
    (problem,) = raised.value.problems
    return problem, raised.value


@pytest.mark.parametrize(
    ("text", "body", "changes", "line"),
    [
        (LOSS, "return logits.sum() * (1 / len(()))", OF_THEIRS, 8),
        (NETWORK, "return self.layer(image) * {}['gain']", SUPERVISED | {"network": "theirs"}, 10),
        (
            NETWORK,
            "return self.layer(image) if not self.training else self.layr(image)",
            SUPERVISED | {"network": "theirs"},
            10,
        ),
        (NETWORK, "raise ValueError('no\\nmore')", SUPERVISED | {"network": "theirs"}, 10),
        (SOURCE, "return {'theirs': known['logits'] @ 3}", FROM_SOURCE, 10),
        (LAYOUT, "return [][source]", {"layout": "theirs"}, 13),
    ],
)
def test_what_a_plugin_raises_names_its_line_and_is_chained(tmp_path, dataset, text, body, changes, line):
    plugin, recipe = written(tmp_path, dataset, text.replace("{body}", body), **changes)
    problem, error = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == (str(plugin), "plugin-failed")
    assert problem.message.startswith(f"line {line}, in ")
    cause = error.__cause__
    assert cause is not None
    assert not isinstance(cause, UserError)
    assert f"{type(cause).__name__}: {str(cause).splitlines()[0]}" in problem.message
    assert "\n" not in problem.message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_that_fails_is_named_and_not_the_scans(tmp_path, dataset, workers):
    how = {"augmentation": TINY.get("augmentation", {}) | {"more": [{"augmentation": "theirs"}]}}
    text = AUGMENTATION.replace("{body}", "raise IndexError('no such stripe')")
    plugin, recipe = written(tmp_path, dataset, text, data=TINY["data"] | {"workers": workers}, **how)
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == (str(plugin), "plugin-failed")
    assert problem.message == "line 11, in Theirs.apply: IndexError: no such stripe"


def test_an_augmentation_that_returns_what_nobody_uses_is_refused(tmp_path, dataset):
    how = {"augmentation": TINY.get("augmentation", {}) | {"more": ["theirs"]}}
    _, recipe = written(tmp_path, dataset, AUGMENTATION.replace("{body}", "return image + 1"), **how)
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == ("Theirs", "plugin-failed")
    assert problem.message == "its apply returned Tensor"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return truth.missing", "plugin-failed", "line 8, in Theirs.__call__: AttributeError: "),
        ("return 1 / int(prediction.sum())", "plugin-failed", "line 8, in Theirs.__call__: ZeroDivisionError"),
        (
            "prediction &= truth; return 1.0",
            "plugin-failed",
            "line 8, in Theirs.__call__: ValueError: output array is read",
        ),
        ("return float('nan')", "bad-plugin", "returned nan for the case made to try it"),
        ("return 'much'", "bad-plugin", "returned 'much' for the case made to try it"),
    ],
)
def test_a_metric_that_fails_is_found_before_the_first_step(tmp_path, dataset, body, code, message):
    _, recipe = written(tmp_path, dataset, METRIC.replace("{body}", body), metrics=["theirs"])
    problem, _ = problem_of(tmp_path, recipe)
    assert problem.code == code
    assert problem.message.startswith(message)
    assert not list((tmp_path / "run").glob("checkpoints/*.pt"))


def test_steps_before_a_metric_fails_on_a_real_case_are_saved(tmp_path, dataset):
    body = "return 1.0 if truth.shape == (4, 4, 4) else [][0]"
    plugin, recipe = written(tmp_path, dataset, METRIC.replace("{body}", body), metrics=["theirs"], checkpoint_every=50)
    problem, _ = problem_of(tmp_path, recipe)
    assert problem.code == "plugin-failed"
    assert ", in the case " in problem.message
    assert [path.name for path in (tmp_path / "run").glob("checkpoints/last-*.pt")] == ["last-000002.pt"]
    plugin.write_text(METRIC.replace("{body}", "return 1.0"))
    words = ("train", recipe, "max_steps=2", "--output", tmp_path / "run", "--resume", "--allow-change", "plugins")
    ended = fewmask(*words, XDG_STATE_HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_plugin_that_asks_for_a_file_beside_it_is_told_to_be_one_file(tmp_path, dataset):
    (tmp_path / "beside_it.py").write_text("GAIN = 2")
    text = f"from beside_it import GAIN\n{LOSS.format(body='return logits.mean()')}"
    _, recipe = written(tmp_path, dataset, text, **OF_THEIRS)
    problem, _ = problem_of(tmp_path, recipe)
    assert problem.remedy.startswith("a plugin is one file: take in what it needs of beside_it.py")


def test_command_says_it_in_one_message_without_a_traceback(tmp_path, dataset):
    plugin, recipe = written(tmp_path, dataset, LOSS.format(body="raise KeyError('w')"), **OF_THEIRS)
    ended = fewmask("train", recipe, "--output", tmp_path / "run", XDG_STATE_HOME=str(tmp_path))
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert f"{plugin}: line 8, in Theirs.forward: KeyError: 'w' [plugin-failed]" in ended.stderr


def test_what_our_own_code_raises_stays_what_it_is(tmp_path, dataset, monkeypatch):
    _, recipe = written(tmp_path, dataset, LOSS.format(body="return logits.mean()"), **OF_THEIRS)

    def ours(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr(runs, "train", ours)
    with pytest.raises(KeyError, match="ours"):
        api_training.train(recipe, tmp_path / "run")


def test_memory_that_a_plugin_has_no_more_of_is_no_mistake_of_it(tmp_path, dataset):
    _, recipe = written(tmp_path, dataset, LOSS.format(body="raise MemoryError"), **OF_THEIRS)
    problem, _ = problem_of(tmp_path, recipe)
    assert problem.code == "out-of-memory"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return logits.mean(dim=(0, 2, 3, 4))", "a tensor of shape (3,)"),
        ("return logits.mean().reshape(1)", "a tensor of shape (1,)"),
        ("return logits.mean().round().long()", "a number of type int64"),
        ("return logits.mean().detach()", "a number without a gradient"),
        ("return logits.mean().item()", "float"),
        ("return None", "NoneType"),
    ],
)
def test_loss_that_would_teach_nothing_in_silence_is_refused_at_its_first_step(tmp_path, dataset, body, what):
    _, recipe = written(tmp_path, dataset, LOSS.format(body=body), **OF_THEIRS)
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == ("objective: theirs", "bad-loss")
    assert f"returned {what}, and" in problem.message
    assert not list((tmp_path / "run").glob("checkpoints/*.pt"))


def test_objective_of_which_no_weight_takes_part_is_refused(tmp_path, dataset):
    text = SOURCE.replace("{body}", "return {'theirs': known['logits'].detach()}")
    _, recipe = written(tmp_path, dataset, text, **FROM_SOURCE)
    problem, _ = problem_of(tmp_path, recipe)
    assert problem.code == "bad-loss"
    assert problem.message.startswith("dice: nothing that is judged")


def test_a_loss_that_leaves_its_base_unmade_is_named(tmp_path, dataset):
    text = LOSS.format(body="return logits.mean()") + "\n    def __init__(self):\n        self.most = 3\n"
    plugin, recipe = written(tmp_path, dataset, text, **OF_THEIRS)
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == ("objective.1.loss", "plugin-failed")
    assert problem.message == f"{plugin}: Theirs.__init__ does not call super().__init__()"


@pytest.mark.parametrize("body", ["return None", "return {}", "return known['logits']"])
def test_source_that_does_not_provide_what_it_says_is_refused(tmp_path, dataset, body):
    _, recipe = written(tmp_path, dataset, SOURCE.replace("{body}", body), **FROM_SOURCE)
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == ("Theirs", "bad-source")


@pytest.mark.parametrize("body", ["return None", "return self.layer(image)[:, :1]", "return self.layer(image)[0]"])
def test_network_that_makes_something_else_of_a_patch_is_refused(tmp_path, dataset, body):
    _, recipe = written(tmp_path, dataset, NETWORK.replace("{body}", body), **SUPERVISED, network="theirs")
    problem, _ = problem_of(tmp_path, recipe)
    assert (problem.where, problem.code) == ("network.name", "bad-network")
    assert "and should make (1, 3, 16, 16, 16)" in problem.message


def test_network_of_a_plugin_that_fails_in_prediction_is_named(tmp_path, dataset):
    body = "return self.layer(image) if self.training or image.shape[-1] == 16 or not fail else {}[0]"
    text = NETWORK.replace("{body}", body).replace("class Net", "fail = False\n\nclass Net")
    plugin, recipe = written(tmp_path, dataset, text, **SUPERVISED, network="theirs")
    api_training.train(recipe, tmp_path / "run", settings={"max_steps": 2})
    (module,) = [module for module in sys.modules.values() if getattr(module, "__file__", None) == str(plugin)]
    scan = next((dataset / "imagesTs").iterdir())
    model = load(tmp_path / "run")
    module.Net.forward = lambda *_: module.missing
    with pytest.raises(AttributeError):  # Of the test's own code, which is no plugin's.
        model.predict(scan)
    exec("def forward(self, image):\n    return missing\n", vars(module))
    module.Net.forward = module.forward
    with pytest.raises(UserError, match="NameError: name 'missing'"):
        model.predict(scan)
    with pytest.raises(UserError, match="NameError: name 'missing'"):
        api.predict(tmp_path / "run", scan, tmp_path / "masks")
    assert plugin.is_file()


STEP = '''from pipeline.prediction.postprocessing import POSTPROCESSING, PostprocessingStep

refused = None

@POSTPROCESSING.register("theirs")
class Theirs(PostprocessingStep):
    """Theirs."""

    def __call__(self, labels, spacing_mm):
        if labels.shape[0] == refused:
            raise KeyError("w")
        return labels
'''


def test_a_plugin_that_fails_on_one_scan_of_a_prediction_costs_that_scan_alone(tmp_path, dataset, monkeypatch, capsys):
    plugin, recipe = written(tmp_path, dataset, STEP, **SUPERVISED, postprocessing=[{"step": "theirs"}])
    api_training.train(recipe, tmp_path / "run", settings={"max_steps": 1})
    (module,) = [module for module in sys.modules.values() if getattr(module, "__file__", None) == str(plugin)]
    whole = next((dataset / "imagesTs").iterdir())
    image = nib.load(whole)
    (tmp_path / "scans").mkdir()
    for name, width in (("a", 16), ("b", 17), ("c", 18)):
        nib.save(image.slicer[:width], tmp_path / "scans" / f"{name}.nii.gz")
    monkeypatch.setattr(module, "refused", 17)
    run = command_runner(monkeypatch, capsys)
    code, _, said = run("predict", tmp_path / "run", tmp_path / "scans", "--output", tmp_path / "masks")
    assert code == 3, said
    assert f"{tmp_path / 'scans' / 'b.nii.gz'}: {plugin}, line 11, in Theirs.__call__: KeyError: 'w'" in said
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]
    code, _, said = run("predict", tmp_path / "run", tmp_path / "scans" / "b.nii.gz", "--output", tmp_path / "one")
    assert (code, "KeyError: 'w' [plugin-failed]" in said) == (2, True), said
