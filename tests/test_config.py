import json

import pytest
import yaml

from pipeline import config
from pipeline.errors import UserError
from pipeline.runs.components import COMPONENTS
from pipeline.strict_yaml import read_yaml, write_yaml

MINIMAL = "dataset: scans\nobjective:\n  - {loss: dice}\n  - {loss: ncut, on: unlabelled, weight: 0.1}\n"


@pytest.fixture
def load(tmp_path):
    """A function from YAML text and overrides to a recipe."""

    def load(text=MINIMAL, *overrides):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return config.parse(config.read(path, overrides), str(path), COMPONENTS)

    return load


@pytest.fixture
def mistakes(load):
    """A function from YAML text and overrides to the mistakes in them, by dotted path."""

    def mistakes(text=MINIMAL, *overrides):
        with pytest.raises(UserError) as raised:
            load(text, *overrides)
        assert raised.value.__cause__ is None
        found = {problem.where: problem for problem in raised.value.problems}
        assert len(found) == len(raised.value.problems), "one problem a place"
        return found

    return mistakes


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-3", -3),
        ("08", 8),
        ("017", 17),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("[16, 32]", [16, 32]),
    ],
)
def test_scalars_are_read_as_yaml_1_2_reads_them(text, value):
    read = read_yaml(text, "text")
    assert read == value
    assert type(read) is type(value)


def test_key_called_on_stays_text():
    assert read_yaml("{on: labelled, yes: 1}", "text") == {"on": "labelled", "yes": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "'a' stands twice"),
        ("a: {b: 1, b: 2}", "'b' stands twice"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system [echo]", "tags such as !!python/object/apply:os.system are not allowed"),
        ("a: !Custom 3", "tags such as !Custom are not allowed"),
        ("! 5", "tags such as ! are not allowed"),
        ("a: [1", "expected ',' or ']'"),
        ("? [a, b]\n: 1", "a key is no text"),
        ("{1: a, 01: b, 1: c}", "'1' stands twice"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ('{"\\ud800": 1}', "half a surrogate pair"),
        ("[" * 5000, ""),
        ("a: " + "9" * 5000, "4300"),
        ("a: 1\n---\na: 2", "single document"),
        ("a: \x00", ""),
    ],
)
def test_yaml_that_is_more_or_less_than_plain_data_is_refused(text, message):
    with pytest.raises(UserError) as raised:
        read_yaml(text, "here.yaml")
    (problem,) = raised.value.problems
    assert (problem.where, problem.code) == ("here.yaml", "bad-yaml")
    assert message in problem.message


TAGS = ("bool", "int", "float", "null", "str", "timestamp", "set", "omap", "pairs", "binary", "map", "seq", "value")


@pytest.mark.parametrize("tag", TAGS)
def test_no_tag_is_obeyed_wherever_it_stands(tag):
    for place in ("!!{} {}", "a: !!{} {}", "? !!{} {}\n: 1", "[!!{} {}]", "%TAG ! tag:yaml.org,2002:\n---\n!{} {}"):
        for value in ("abc", "2001-12-14", "{a, b}", "[a: 1]", "5", "\u0663", "aGVsbG8=", "{}", ""):
            with pytest.raises(UserError, match=f"tags such as !!{tag} are not allowed"):
                read_yaml(place.format(tag, value), "text")


def test_a_key_is_text_whatever_it_looks_like():
    assert read_yaml("{1: a, 01: b, 1.5: c, true: d, ~: e, 2001-12-14: f}", "text") == {
        "1": "a",
        "01": "b",
        "1.5": "c",
        "true": "d",
        "~": "e",
        "2001-12-14": "f",
    }


def test_merge_key_is_a_key_like_any_other():
    assert read_yaml("<<: {a: 1}", "text") == {"<<": {"a": 1}}


TEXTS = (
    "1e-4",
    "on",
    "Yes",
    "n",
    "08",
    "017",
    "1_0",
    "0x1",
    "~",
    "null",
    "",
    "1:30",
    "2024-01-01",
    "=",
    "<<",
    "a: b",
    "ü #",
    "*x",
)
CONTENTS = [None, True, -3, 0.1, 1e-7, 1e22, [], {}, [1, [2.5, "a"]], {"on": {"1": [], "x": None}}, *TEXTS]


@pytest.mark.parametrize("content", [*CONTENTS, dict.fromkeys(TEXTS, 1)], ids=repr)
def test_what_is_written_is_read_again_by_our_rules_and_by_yaml_1_1(content):
    text = write_yaml(content)
    assert read_yaml(text, "text") == content
    assert yaml.safe_load(text) == content


# Files


def test_missing_recipe_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        config.read(tmp_path / "none.yaml")
    assert [(p.where, p.code) for p in raised.value.problems] == [(str(tmp_path / "none.yaml"), "missing-file")]


def test_huge_recipe_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "huge.yaml"
    path.write_text("#" * (config.MAX_RECIPE_BYTES + 1))
    monkeypatch.setattr(config, "read_yaml", lambda *_: pytest.fail("was parsed"))
    with pytest.raises(UserError, match="too-large"):
        config.read(path)


@pytest.mark.parametrize("text", ["", "- a\n- b", "just text", "3"])
def test_recipe_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="no mapping of keys to values"):
        config.read(path)


def test_recipe_that_is_not_utf_8_is_refused_with_a_message(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(UserError, match="seed: expected a valid integer"):
        config.parse(config.read(path), str(path), COMPONENTS)


# Recipes


def test_minimal_recipe_gets_every_default(load):
    recipe = load()
    assert recipe.max_steps == "auto"
    assert (recipe.seed, recipe.device, recipe.data.patch_size, recipe.network.name) == (0, "auto", "auto", "unet")
    assert [(term.loss, term.on, term.weight, term.ramp) for term in recipe.objective] == [
        ("dice", "labelled", 1.0, 0.0),
        ("ncut", "unlabelled", 0.1, 0.0),
    ]


def test_recipe_is_frozen(load):
    recipe = load()
    with pytest.raises(ValueError, match="frozen"):
        recipe.data.batch_size = 3


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset='1e-4'", "root=on"],
        ["optimizer.learning_rate=1e-7", "data.spacing_mm=[1, 1.5, 3]", "data.patch_size=[8, 8, 8]"],
        ["network=dynunet", "network.options.channels=[4, 8, 8, 8]", "objective.1.options.sigma_intensity=0.1"],
    ],
)
def test_recipe_that_is_dumped_and_read_is_the_same(load, tmp_path, overrides):
    recipe = load(MINIMAL, *overrides)
    again = read_yaml(config.dump(recipe), "again")
    assert config.parse(again, "again", COMPONENTS) == recipe
    assert json.loads(json.dumps(yaml.safe_load(config.dump(recipe)))) == recipe.model_dump(mode="json")


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", "seed", 7),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate", 1e-3),
        ("objective.1.weight=0.3", "objective.1.weight", 0.3),
        ("objective.1.options.radius=2", "objective.1.options", {"radius": 2}),
        ("data.patch_size=[8, 16, 8]", "data.patch_size", (8, 16, 8)),
        ("dataset=a=b", "dataset.name", "a=b"),
        ("network=segresnet", "network.name", "segresnet"),
        ("tensorboard=true", "tensorboard", True),
    ],
)
def test_override_sets_the_key_that_it_names(load, override, path, value):
    found = load(MINIMAL, override)
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value


def test_shorthand_of_a_network_makes_way_for_its_options(load):
    network = load(MINIMAL, "network=segresnet", "network.options.init_filters=8").network
    assert (network.name, network.options) == ("segresnet", {"init_filters": 8})


def test_a_name_in_a_list_makes_way_for_its_options(load):
    overrides = ["objective=[dice, cross_entropy]", "objective.1.weight=0.5", "objective.0.options.smooth=2.0"]
    terms = load(MINIMAL, *overrides).objective
    assert [(term.loss, term.weight, term.options) for term in terms] == [
        ("dice", 1.0, {"smooth": 2.0}),
        ("cross_entropy", 0.5, {}),
    ]


def test_keys_of_other_programs_and_of_sections_lead_to_ours(mistakes):
    keys = ("batch_size", "lr", "num_epochs", "fold", "learning_rate", "seeed")
    found = mistakes(MINIMAL, *(f"{key}=1" for key in keys))
    assert {key: found[key].remedy for key in keys} == {
        "batch_size": "did you mean data.batch_size?",
        "lr": "did you mean optimizer.learning_rate?",
        "num_epochs": "did you mean max_steps?",
        "fold": "did you mean data.split_fold?",
        "learning_rate": "did you mean optimizer.learning_rate?",
        "seeed": "did you mean 'seed'?",
    }


def test_later_override_wins(load):
    assert load(MINIMAL, "seed=1", "seed=2").seed == 2


def test_override_passes_through_the_same_schema(mistakes):
    found = mistakes(MINIMAL, "optimiser.learning_rate=1e-3", "max_steps=many", "data.workers=-1")
    assert set(found) == {"optimiser", "max_steps", "data.workers"}
    assert found["optimiser"].remedy == "did you mean 'optimizer'?"


def test_workers_have_nothing_to_do_beside_resident_scans(load, mistakes):
    assert load(MINIMAL, "data.workers=0", "data.resident=true").data.resident is True
    found = mistakes(MINIMAL, "data.workers=2", "data.resident=true")
    assert "data.workers is given" in found["data.resident"].message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "no key=value"),
        ("=3", "no key=value"),
        ("objective.2.weight=1", "'2' is no place in a list of 2"),
        ("objective.-1.weight=1", "'-1' is no place in a list of 2"),
        ("objective.one.weight=1", "'one' is no place in a list of 2"),
        ("objective.2={loss: dice}", "'2' is no place in a list of 2"),
        ("seed=[1", "expected ',' or ']'"),
    ],
)
def test_override_without_a_place_is_refused(load, override, message):
    with pytest.raises(UserError, match="cannot be read") as raised:
        load(MINIMAL, override)
    (problem,) = raised.value.problems
    assert problem.where == override
    assert message in problem.message


# Mistakes

MANY = """
sead: 1
max_steps: "100"
device: gpu
data: {patchsize: [8, 8, 8], batch_size: 0, spacing_mm: [1, -1, 1]}
network: {name: unnet}
optimizer: {warmup: 2}
objective:
  - {loss: balanced_cee}
  - {loss: ncut, on: unlabeled, options: {radios: 3, normalize: "yes"}}
  - {loss: dice, wait: 3, weight: -1}
"""


def test_every_mistake_is_reported_at_once_with_its_path(mistakes):
    found = mistakes(MANY)
    assert set(found) == {
        "dataset",
        "sead",
        "max_steps",
        "device",
        "data.patchsize",
        "data.batch_size",
        "data.spacing_mm.1",
        "network.name",
        "optimizer.warmup",
        "objective.0.loss",
        "objective.1.on",
        "objective.1.options.radios",
        "objective.1.options.normalize",
        "objective.2.wait",
        "objective.2.weight",
    }


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("sead", "did you mean 'seed'?"),
        ("data.patchsize", "did you mean 'data.patch_size'?"),
        ("objective.2.wait", "did you mean 'objective.2.weight'?"),
    ],
)
def test_unknown_key_names_the_nearest_of_its_section(mistakes, path, remedy):
    assert mistakes(MANY)[path].remedy == remedy


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("network.name", "no network is named 'unnet'; did you mean 'unet'?"),
        ("objective.0.loss", "no loss is named 'balanced_cee'; did you mean 'balanced_ce'?"),
        ("objective.1.options.radios", "ncut has no such option; did you mean 'radius'?"),
        ("objective.1.on", "expected 'labelled', 'unlabelled' or 'all', not 'unlabeled'"),
        ("max_steps", "expected 'auto' or a valid integer, not '100'"),
        ("objective.2.weight", "expected greater than or equal to 0, not -1"),
        ("dataset", "is not given"),
    ],
)
def test_mistake_says_what_was_expected_and_what_was_given(mistakes, path, message):
    assert mistakes(MANY)[path].message == message


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("seed=-1", "seed"),
        ("seed=1.5", "seed"),
        ("seed=true", "seed"),
        ("seed=4294967296", "seed"),
        ("max_steps=0", "max_steps"),
        ("device=cuda:x", "device"),
        ("precision=double", "precision"),
        ("tensorboard=1", "tensorboard"),
        ("plugins=a.py", "plugins"),
        ("data=3", "data"),
        ("data.dimensions=4", "data.dimensions"),
        ("data.orientation=XYZ", "data.orientation"),
        ("data.orientation=RRS", "data.orientation"),
        ("data.orientation=RAI2", "data.orientation"),
        ("data.patch_size=[8]", "data.patch_size"),
        ("data.patch_size=[8, 8, 0]", "data.patch_size.2"),
        ("data.patch_size=[8, 8, 8, 8]", "data.patch_size"),
        ("data.patch_size=big", "data.patch_size"),
        ("data.spacing_mm=[1]", "data.spacing_mm"),
        ("data.validation_fraction=1", "data.validation_fraction"),
        ("augmentation.flip_axes=[3]", "augmentation.flip_axes.0"),
        ("augmentation.rotation_degrees=181", "augmentation.rotation_degrees"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate"),
        ("optimizer.learning_rate=1e999", "optimizer.learning_rate"),
        ("network=3", "network"),
        ("network.options=[1]", "network.options"),
        ("network.options.channels=[4, x]", "network.options.channels"),
        ("network.options.num_res_units='2'", "network.options.num_res_units"),
        ("network.options.dropout=1e999", "network.options.dropout"),
        ("network.options.spatial_dims=2", "network.options.spatial_dims"),
        ("network.options={3: 4}", "network.options.3"),
        ("objective=[]", "objective"),
        ("objective=dice", "objective"),
        ("objective.0=4", "objective.0"),
        ("objective.0.ramp=2", "objective.0.ramp"),
        ("objective.0.loss=3", "objective.0.loss"),
        ("objective.0.on=unlabelled", "objective.0.on"),
        ("objective.1.options.radius=0", "objective.1.options.radius"),
        ("objective.1.options.radius='3'", "objective.1.options.radius"),
        ("objective.1.options.reduction=median", "objective.1.options.reduction"),
    ],
)
def test_one_wrong_value_is_one_problem_at_its_place(mistakes, override, path):
    assert list(mistakes(MINIMAL, override)) == [path]


def test_a_name_stands_for_a_choice_without_options_wherever_one_is_chosen(load):
    names = ["metrics=[centre_distance_mm]", "objective=[dice]", "sources=[mean_teacher]"]
    recipe = load(MINIMAL, *names, "optimizer=sgd", "optimizer.schedule=constant", "network=segresnet")
    assert [recipe.metrics[0].metric, recipe.objective[0].loss] == ["centre_distance_mm", "dice"]
    assert recipe.sources[0].source == "mean_teacher"
    assert [recipe.network.name, recipe.optimizer.name, recipe.optimizer.schedule.name] == [
        "segresnet",
        "sgd",
        "constant",
    ]


def test_a_mapping_that_the_shell_has_split_is_to_be_quoted(load):
    with pytest.raises(UserError, match="quote it, so that the shell leaves it whole"):
        load(MINIMAL, "labels=liver:[1", "labels=2]")
    load(MINIMAL, "layout=folder", "layout.options.patient=s-[0-9")


def test_an_option_that_is_needed_is_asked_for(mistakes):
    assert mistakes(MINIMAL, "postprocessing=[fill_holes]")["postprocessing.0.options.label"].message == "is not given"


def test_a_name_that_stands_alone_is_looked_up(mistakes):
    found = mistakes(MINIMAL, "metrics=[centre_distance]", "objective=[dise, 4]")
    assert "did you mean 'centre_distance_mm'?" in found["metrics.0.metric"].message
    assert "did you mean 'dice'?" in found["objective.0.loss"].message
    assert found["objective.1"].message == "expected an object, not 4"


def test_objective_that_weighs_nothing_is_refused(mistakes):
    found = mistakes(MINIMAL, "objective.0.weight=0", "objective.1.weight=0")
    assert found["objective"].message.startswith("expected a term with a weight above 0")


def test_sizes_that_speak_of_different_dimensions_are_refused(mistakes):
    found = mistakes(MINIMAL, "data.patch_size=[8, 8]", "data.spacing_mm=[1, 1, 1]")
    assert list(found) == ["data.patch_size"]


@pytest.mark.parametrize("override", ["plugins.0.x=1", "plugins.0.x.y=1", "plugins.0.0.y=1"])
def test_an_override_that_leads_into_a_value_is_refused(load, override):
    with pytest.raises(UserError, match="leads into a value"):
        load(MINIMAL, "plugins=[a.py]", override)


def test_two_dimensional_recipe_takes_two_numbers(load, mistakes):
    flat = load(MINIMAL, "data.dimensions=2", "data.patch_size=[8, 8]", "data.spacing_mm=[1, 1]")
    assert flat.data.patch_size == (8, 8)
    assert list(mistakes(MINIMAL, "data.dimensions=2", "data.patch_size=[8, 8, 8]")) == ["data.patch_size"]


def test_number_of_mistakes_is_in_the_first_line(load):
    with pytest.raises(UserError, match=r"recipe\.yaml has 15 mistakes\."):
        load(MANY)
    with pytest.raises(UserError, match=r"recipe\.yaml has 1 mistake\."):
        load(MINIMAL, "seed=-1")


def test_paths_of_a_file_begin_at_its_folder_and_those_of_overrides_where_the_command_runs(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    recipe = folder / "mine.yaml"
    recipe.write_text("dataset: ../scans\nroot: here\nplugins: [a.py, /b.py]\ndata: {cache: c, workers: 0}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert config.read(recipe) == {
        "dataset": str(folder / "../scans"),
        "root": str(folder / "here"),
        "plugins": [str(folder / "a.py"), "/b.py"],
        "data": {"cache": str(folder / "c"), "workers": 0},
    }
    given = config.read(recipe, ["dataset=d", "data.cache=off", "plugins=[x.py]"])
    assert (given["dataset"], given["data"]["cache"], given["plugins"]) == ("d", "off", ["x.py"])


@pytest.mark.parametrize("text", ["dataset: 5", "plugins: a.py", "data: {cache: [1]}", "dataset: ''", "data: 3"])
def test_what_is_no_path_is_left_to_the_schema(tmp_path, text):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    assert config.read(recipe) == yaml.safe_load(text)
