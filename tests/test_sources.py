"""A method is a class in a file: a teacher, a second network and a mixing of scans as plugins; what a recipe says."""

import re
from pathlib import Path

import pytest
import torch
from runs_fixtures import TINY, assert_same_run, make_phantom, plug_pulled_at, state_of, train
from test_steps import at, make_batch, make_step
from torch import nn

from pipeline import config
from pipeline.engines.ensemble import DeepEnsemble
from pipeline.engines.sources import SOURCES, CopyPaste, CrossTeaching, MeanTeacher, Source
from pipeline.engines.sources.mean_teacher import confident_labels
from pipeline.errors import UserError
from pipeline.losses import DiceLoss
from pipeline.losses.objective import Term
from pipeline.plugins import load_plugins
from pipeline.runs.components import COMPONENTS

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
# The page's own example.
TEACHER = re.search(r"```python\n(# teacher\.py\n.*?)```", PAGE, re.DOTALL)[1]

PEER = '''
from pipeline.engines.sources import SOURCES, Source


@SOURCES.register("test_peer")
class Peer(Source):
    """A second network, which is trained beside the student, and the labels that each predicts for the other."""

    provides = ("peer_logits", "peer_label", "student_label")

    def __init__(self, student, new_network):
        super().__init__(student, new_network)
        self.peer = new_network(1)

    @property
    def network(self):
        return self.peer

    def __call__(self, known):
        logits = self.peer(known["image"])
        own, other = (each.argmax(1, keepdim=True) for each in (known["logits"], logits))
        return {"peer_logits": logits, "peer_label": other, "student_label": own}
'''

MIXER = '''
import torch

from pipeline.engines.sources import SOURCES, Source


@SOURCES.register("test_mixer")
class Mixer(Source):
    """A box of a labelled patch pasted into an unlabelled one: what the student makes of it, and the labels there."""

    provides = ("mixed_logits", "mixed_label")

    def __call__(self, known):
        given = known.streams["labelled"]
        box = torch.zeros_like(given["label"], dtype=torch.bool)
        first = int(torch.randint(8, ()))
        box[:, :, first : first + 8] = True
        image = torch.where(box, given["image"], known["image"])
        return {"mixed_logits": self.student(image), "mixed_label": given["label"].where(box, -1)}
'''

DICE = {"loss": "dice"}
METHODS = {
    "teacher": (
        TEACHER,
        [{"source": "my_teacher", "options": {"decay": 0.8, "sure": 0.4}}],
        [{"loss": "cross_entropy", "on": "unlabelled", "against": ["pseudo_label"], "weight": 0.5, "ramp": 0.4}],
    ),
    "peer": (
        PEER,
        [{"source": "test_peer"}],
        [
            {"loss": "dice", "judges": "peer_logits"},
            {"loss": "cross_entropy", "on": "unlabelled", "against": ["peer_label"], "weight": 0.5},
            {"loss": "cross_entropy", "on": "unlabelled", "judges": "peer_logits", "against": ["student_label"]},
        ],
    ),
    "mixer": (
        MIXER,
        [{"source": "test_mixer"}],
        [{"loss": "dice", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_label"], "weight": 0.5}],
    ),
}

SHIPPED = {
    "mean_teacher": (
        {"sources": [{"source": "mean_teacher", "options": {"decay": 0.8, "confidence": 0.4}}]},
        [
            {"loss": "consistency", "on": "all", "weight": 0.1, "ramp": 0.4},
            {"loss": "cross_entropy", "on": "unlabelled", "against": ["pseudo_label"], "weight": 0.5, "ramp": 0.4},
            {"loss": "entropy", "on": "unlabelled", "weight": 0.01},
        ],
    ),
    "cross_teaching": (
        {
            "sources": [{"source": "cross_teaching", "options": {"confidence": 0.4}}],
            "network": TINY["network"] | {"members": 2},
        },
        [{"loss": "dice", "on": "unlabelled", "against": ["peer_label"], "weight": 0.5}],
    ),
    "copy_paste": (
        {"sources": [{"source": "mean_teacher"}, {"source": "copy_paste"}]},
        [
            {"loss": "dice", "on": "unlabelled", "judges": "mixed_logits", "against": ["mixed_label"]},
            {
                "loss": "cross_entropy",
                "on": "unlabelled",
                "judges": "mixed_logits",
                "against": ["mixed_pseudo_label"],
                "weight": 0.5,
            },
        ],
    ),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    for name, (text, *_) in METHODS.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def changes(plugins, name, **more):
    _, sources, terms = METHODS[name]
    recipe = {"plugins": [str(plugins / f"{name}.py")], "sources": sources, "objective": [DICE, *terms]}
    return recipe | more


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_one_file_is_trained_and_resumes_to_the_last_bit(tmp_path, dataset, plugins, name):
    whole = train(tmp_path, dataset, "whole", **changes(plugins, name))
    with plug_pulled_at(5):
        train(tmp_path, dataset, "stopped", **changes(plugins, name))
    resumed = train(tmp_path, dataset, "stopped", resume=True, **changes(plugins, name))
    assert_same_run(whole, resumed)
    assert state_of(whole)["sources"].keys() == {"0"}


@pytest.mark.parametrize("name", ["teacher", "mixer"])
def test_at_weight_0_the_run_is_the_supervised_one(tmp_path, dataset, plugins, name):
    supervised = train(tmp_path, dataset, "supervised", objective=[DICE])
    terms = [term | {"weight": 0} for term in METHODS[name][2]]
    same = train(tmp_path, dataset, "same", **changes(plugins, name, objective=[DICE, *terms]))
    other = train(tmp_path, dataset, "other", **changes(plugins, name))
    weights = [state_of(run)["network"] for run in (supervised, same, other)]
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key])
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_method_resumes_to_the_last_bit_and_is_nothing_at_weight_0(tmp_path, dataset, name):
    sections, terms = SHIPPED[name]
    recipe = sections | {"objective": [DICE, *terms]}
    whole = train(tmp_path, dataset, "whole", **recipe)
    with plug_pulled_at(5):
        train(tmp_path, dataset, "stopped", **recipe)
    assert_same_run(whole, train(tmp_path, dataset, "stopped", resume=True, **recipe))
    network = {key: value for key, value in sections.items() if key == "network"}
    supervised = state_of(train(tmp_path, dataset, "supervised", objective=[DICE], **network))["network"]
    idle = [term | {"weight": 0} for term in terms]
    same = state_of(train(tmp_path, dataset, "same", **recipe | {"objective": [DICE, *idle]}))["network"]
    assert all(torch.equal(value, same[key]) for key, value in supervised.items())
    assert not all(torch.equal(value, state_of(whole)["network"][key]) for key, value in supervised.items())


def test_the_mean_teacher_is_its_formula_buffers_included():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    teacher = MeanTeacher(network, decay=0.7)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    step = make_step(network, sources=(teacher,))
    for number in range(1, 6):
        step(at(number), {"labelled": make_batch()})
        kept = min(1 - 1 / (number + 1), 0.7)
        for name, value in network.state_dict().items():
            floating = value.is_floating_point()
            expected[name] = kept * expected[name] + (1 - kept) * value if floating else value.clone()
    for name, value in teacher.teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert int(teacher.teacher.state_dict()["1.num_batches_tracked"]) == 5
    assert not teacher.teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.teacher.parameters())


def test_pseudo_labels_are_ignored_where_the_teacher_is_not_confident_or_the_scan_ends():
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.9, 0.0], [0.0, 0.0, 0.0]]).view(1, 3, 1, 3)
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    assert confident_labels(logits, mask, 0.0).flatten().tolist() == [1, 0, -1]
    assert confident_labels(logits, mask, 0.8).flatten().tolist() == [1, -1, -1]
    assert confident_labels(logits, mask, 1.0).flatten().tolist() == [-1, -1, -1]


def test_a_member_is_taught_by_the_others_alone():
    members = [nn.Conv2d(1, 3, 1) for _ in range(3)]
    for n, member in enumerate(members):
        nn.init.zeros_(member.weight)
        with torch.no_grad():
            member.bias.copy_(torch.eye(3)[n] * (5 + n))
    ensemble = DeepEnsemble(members)
    source = CrossTeaching(ensemble)
    known = {"plain_image": torch.zeros(1, 1, 2, 2), "mask": torch.ones(1, 1, 2, 2, dtype=torch.bool)}
    for turn, expected in ((0, 2), (1, 2), (2, 1)):
        ensemble.turn = turn
        assert source(known)["peer_label"].unique().tolist() == [expected]
        assert all(member.training for member in members)
    with pytest.raises(ValueError, match=r"network\.members=2"):
        CrossTeaching(members[0])


class Streams(dict):
    """A stream's values, beside those of others."""

    streams = None


@pytest.mark.parametrize("size", [(6, 9), (6, 9, 4)])
def test_copy_paste_shows_each_part_with_its_own_label(size):
    seen = []

    def student(images):
        seen.append(images)
        return images

    labelled = {"image": torch.full((1, 1, *size), 10.0), "label": torch.full((1, 1, *size), 1)}
    known = Streams(image=torch.full((2, 1, *size), 20.0), pseudo_label=torch.full((2, 1, *size), 2))
    known.streams = {"labelled": labelled, "unlabelled": known}
    places = set()
    for seed in range(8):
        torch.manual_seed(seed)
        found = CopyPaste(student, side=0.5)(known)
        images = seen[-1]
        assert images.shape == (2, 1, *size)
        assert torch.equal(found["mixed_label"] == 1, images == 10)
        assert torch.equal(found["mixed_label"] == -1, images == 20)
        assert torch.equal(found["mixed_pseudo_label"] == 2, images == 20)
        assert torch.equal(found["mixed_pseudo_label"] == -1, images == 10)
        assert torch.equal(images[:1] == 10, images[1:] == 20), "the two are each other's complement"
        first = int((images == 10).flatten(1).sum(1).argmin())
        inside = (images == 10)[first, 0].nonzero()
        sides = (inside.max(0).values - inside.min(0).values + 1).tolist()
        assert sides == [round(0.5 * length) for length in size]
        places.add((first, *inside.min(0).values.tolist()))
    assert len(places) > 2
    assert {first for first, *_ in places} == {0, 1}, "which pair begins is drawn"


def test_copy_paste_without_labelled_scans_or_pseudo_labels_is_refused():
    terms = [{"loss": "ncut", "on": "all"}]
    assert [(where, code) for where, code, *_ in problems_of(objective=terms, sources=[{"source": "copy_paste"}])] == [
        ("sources.0", "not-provided")
    ]
    sources = [{"source": "mean_teacher"}, {"source": "copy_paste"}]
    assert [(where, code) for where, code, *_ in problems_of(objective=terms, sources=sources, segments=3)] == [
        ("sources.1", "no-labels")
    ]


def test_a_teacher_is_the_average_that_its_formula_says(plugins):
    load_plugins([plugins / "teacher.py"])
    network = nn.Conv2d(1, 2, 1)
    teacher = SOURCES.build("my_teacher", {"decay": 0.7}, student=network, new_network=None)
    step = make_step(network, sources=(teacher,))
    expected = network.weight.detach().clone()
    for number in range(1, 6):
        step(at(number), {"labelled": make_batch()})
        kept = min(1 - 1 / (number + 1), 0.7)
        expected = kept * expected + (1 - kept) * network.weight.detach()
    torch.testing.assert_close(teacher.teacher.weight, expected)


class Counting(Source):
    """Counts how often it was asked."""

    provides = ("one", "two")

    def __init__(self, student, new_network=None):
        super().__init__(student, new_network)
        self.asked = 0

    def __call__(self, known):
        self.asked += 1
        return {"one": known["label"].clamp(min=0), "two": known["label"].clamp(min=0)}


def test_a_source_works_when_a_term_first_needs_it_and_once():
    network = nn.Conv2d(1, 2, 1)
    source = Counting(network)
    terms = [Term(name=name, loss=DiceLoss(), on="labelled", against=(name,), ramp=0.5) for name in ("one", "two")]
    step = make_step(network, [Term(name="dice", loss=DiceLoss(), on="labelled"), *terms], sources=(source,))
    step(at(1), {"labelled": make_batch()})
    assert source.asked == 0
    step(at(2), {"labelled": make_batch()})
    assert source.asked == 1


# What a recipe says


def parse(**recipe):
    return config.parse(TINY | {"dataset": "d"} | recipe, "recipe", COMPONENTS)


def problems_of(**recipe):
    with pytest.raises(UserError) as raised:
        parse(**recipe)
    return [(problem.where, problem.code, problem.message, problem.remedy) for problem in raised.value.problems]


def test_a_value_that_nothing_provides_is_refused_with_the_nearest_name():
    term = {"loss": "cross_entropy", "on": "unlabelled", "against": ["logit"]}
    ((where, code, message, remedy),) = problems_of(objective=[DICE, term])
    assert (where, code) == ("objective.1", "not-provided")
    assert message == "cross_entropy needs 'logit', and nothing provides it"
    assert "did you mean 'logits'?" in remedy


def test_every_need_that_is_not_met_is_told_at_once():
    terms = [
        {"loss": "dice", "on": "unlabelled"},
        {"loss": "reconstruction", "on": "unlabelled"},
        {"loss": "ncut", "on": "all", "judges": "teacher"},
    ]
    assert [(where, code) for where, code, *_ in problems_of(objective=[DICE, *terms])] == [
        ("objective.1.on", "no-labels"),
        ("objective.2.loss", "no-decoder"),
        ("objective.3", "not-provided"),
    ]


def test_what_a_source_needs_is_to_be_provided_too(monkeypatch):
    class Picky(Counting):
        needs = ("plain_image", "logits", "atlas_label")

    monkeypatch.setitem(SOURCES.components, "picky", Picky)
    ((where, code, message, _),) = problems_of(sources=[{"source": "picky"}])
    assert (where, code, message) == (
        "sources.0",
        "not-provided",
        "picky needs 'atlas_label', and nothing provides it",
    )


def test_a_source_that_looks_at_what_it_has_not_named_is_told_so():
    class Careless(Counting):
        def __call__(self, known):
            return {"one": known["plain_image"]}

    network = nn.Conv2d(1, 2, 1)
    term = Term(name="dice", loss=DiceLoss(), on="labelled", against=("one",))
    step = make_step(network, [term], sources=(Careless(network),))
    with pytest.raises(KeyError, match="nothing provides 'plain_image' for these scans; a source's `needs` name"):
        step(at(1), {"labelled": make_batch()})


def test_an_unknown_source_and_its_options_are_refused(plugins):
    assert problems_of(sources=[{"source": "teachr"}])[0][:2] == ("sources.0.source", "bad-component")


def test_a_label_that_a_source_provides_may_be_compared_with_on_unlabelled_scans(plugins):
    load_plugins([plugins / "teacher.py"])
    terms = [DICE, *METHODS["teacher"][2]]
    assert parse(objective=terms, sources=METHODS["teacher"][1]).objective[1].against == ("pseudo_label",)
    ((where, code, message, _),) = problems_of(sources=[{"source": "my_teacher", "options": {"decai": 1}}])
    assert (where, code) == ("sources.0.options.decai", "bad-component")
    assert "did you mean 'decay'?" in message
