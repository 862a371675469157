"""Plans as a person makes them: the command, the file, the machine, and training from a dataset alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs_fixtures import ROOT, TINY, command_runner, make_phantom, write_recipe
from test_plan import CPU, GPU, MANY, recipe

from pipeline import config, runs
from pipeline.data.loaders import AHEAD
from pipeline.errors import UserError
from pipeline.planning import devices, doctor
from pipeline.planning.delivery import prepared_bytes
from pipeline.planning.doctor import diagnose
from pipeline.planning.plan import make_plan
from pipeline.runs.components import COMPONENTS
from pipeline.strict_yaml import read_yaml, write_yaml

SMALL = ("data.spacing_mm=[3, 3, 3]", "network.options.channels=[4, 8, 8]", "max_steps=1", "data.batch_size=1")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("planning") / "phantom", labelled=3, unlabelled=2)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("planning") / "masked", labelled=3, unlabelled=0)


# The file


def test_plan_is_a_recipe_that_train_takes_as_it_is(dataset, tmp_path):
    chosen, _ = runs.plan(runs.read_recipe(dataset, SMALL), tmp_path / "plan.yaml")
    again = runs.read_recipe(tmp_path / "plan.yaml")
    assert again.model_dump() == chosen.recipe.model_dump()
    assert "auto" not in config.dump(again)
    scores = runs.train(again, tmp_path / "run")
    assert scores.summary.n_cases == 1
    assert config.read(tmp_path / "run" / "config.yaml") == config.read(tmp_path / "plan.yaml")


def test_reasons_stand_above_what_they_explain(dataset, tmp_path):
    chosen, _ = runs.plan(runs.read_recipe(dataset, SMALL), tmp_path / "plan.yaml")
    lines = (tmp_path / "plan.yaml").read_text().splitlines()
    for choice in chosen.choices:
        key = choice.key.rpartition(".")[2]
        place = next(n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        above = []
        while lines[place - 1].lstrip().startswith("#"):
            place -= 1
            above.insert(0, lines[place].strip("# "))
        assert " ".join(above) == choice.reason, choice.key


def test_held_out_cases_choose_nothing(dataset, tmp_path):
    prepared = runs.planning.prepare(runs.read_recipe(dataset, SMALL))
    assert set(prepared.visible.facts) == set(prepared.index.facts) - {case.id for case in prepared.split.validation}


def test_plan_that_is_there_is_left_alone(dataset, tmp_path):
    (tmp_path / "plan.yaml").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        runs.plan(runs.read_recipe(dataset), tmp_path / "plan.yaml")
    assert (tmp_path / "plan.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    "content", [{"a": 1, "b": {"c": [1, 2], "d": {"a": "x"}}}, {"b": [{"c": 1, "d": [1]}], "a": {}}]
)
def test_comments_change_nothing_that_is_read(content):
    comments = {"a": "first " * 50, "b.c": "# odd: [", "b.d.a": "deep", "b": "text", "nowhere": "lost"}
    text = write_yaml(content, comments)
    assert read_yaml(text, "x") == content
    assert "lost" not in text
    assert max(map(len, text.splitlines())) <= 120


# Recipes by name


@pytest.mark.parametrize("name", ["supervised", "semisupervised"])
def test_shipped_recipe_is_found_by_name(name, dataset):
    assert config.find(Path(name)) == config.shipped()[name]
    assert runs.read_recipe(Path(name), [f"dataset={dataset}"]) == runs.read_recipe(
        ROOT / "configs" / f"{name}.yaml", [f"dataset={dataset}"]
    )


def test_wheel_finds_its_recipes_beside_the_package(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "pipeline" / "recipes")
    monkeypatch.setattr(config, "__file__", str(tmp_path / "pipeline" / "config.py"))
    assert config.shipped()["supervised"] == tmp_path / "pipeline" / "recipes" / "supervised.yaml"
    assert 'configs = "pipeline/recipes"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(("typed", "hint"), [("supervisd", "'supervised'"), ("semisupervise", "'semisupervised'")])
def test_typo_gets_the_nearest_name(typed, hint):
    with pytest.raises(UserError, match=f"did you mean {hint}"):
        runs.read_recipe(Path(typed))


def test_missing_recipe_file_is_said_to_be_one(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        runs.read_recipe(tmp_path / "mine.yaml")


# A dataset alone


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("planning") / "bare", labelled=0, unlabelled=2)


@pytest.mark.parametrize(
    ("which", "name"), [("dataset", "semisupervised"), ("masked", "supervised"), ("bare", "unsupervised")]
)
def test_dataset_alone_gets_the_recipe_that_suits_it(which, name, request, capsys):
    folder = request.getfixturevalue(which)
    made = runs.read_recipe(folder, ["max_steps=7"])
    assert made == runs.read_recipe(Path(name), [f"dataset={folder}", "max_steps=7"])
    assert f"the recipe is '{name}'" in capsys.readouterr().err


def test_dataset_with_an_awkward_name_is_not_read_as_yaml(masked, tmp_path):
    place = tmp_path / "a: b # [c"
    shutil.copytree(masked, place)
    assert runs.read_recipe(place).dataset == place


def test_folder_that_is_no_dataset_says_so(tmp_path):
    with pytest.raises(UserError, match="The dataset cannot be opened"):
        runs.read_recipe(tmp_path)


def test_plan_without_any_mask_says_what_its_batch_is(bare, tmp_path):
    chosen, _ = runs.plan(runs.read_recipe(bare, ["data.spacing_mm=[3, 3, 3]"]), tmp_path / "plan.yaml")
    assert runs.read_recipe(tmp_path / "plan.yaml").model_dump() == chosen.recipe.model_dump()
    assert chosen.recipe.network.options["channels"] == [8, 16, 32]
    assert chosen.memory_bytes > 0


# The command


@pytest.fixture
def run(monkeypatch, capsys):
    return command_runner(monkeypatch, capsys)


def test_commands_plan_and_train_from_a_dataset(run, dataset, tmp_path, monkeypatch):
    code, out, err = run("plan", dataset, *SMALL, "--output", tmp_path / "plan.yaml", "--doctor")
    assert code == 0, err
    for word in ("data.patch_size", "network.options.strides", "memory", "shared memory", "cores"):
        assert word in out
    monkeypatch.chdir(tmp_path)
    assert run("train", "plan.yaml")[0] == 0
    assert (tmp_path / "runs" / "plan" / "summary.json").exists()
    assert run("train", dataset, *SMALL)[0] == 0
    assert (tmp_path / "runs" / dataset.name / "summary.json").exists()


def test_command_writes_a_plan_only_where_it_is_asked_for(run, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("plan", dataset, *SMALL)
    assert (code, "data.patch_size" in out) == (0, True), err
    assert not list(tmp_path.iterdir())


def test_command_without_a_source_needs_doctor(run):
    code, _, err = run("plan")
    assert code == 2
    assert "add --doctor" in err
    code, out, _ = run("plan", "--doctor")
    assert code == 0
    assert "memory" in out


def test_prune_deletes_what_is_old_and_names_a_folder_that_is_not_there(run, tmp_path):
    code, _, err = run("prune", tmp_path / "gone")
    assert code == 2
    assert "is no folder" in err
    (tmp_path / f"facts-{'0' * 32}.json").write_text('[{"case": "a"}]')
    assert run("prune", tmp_path, "--unused-days", "0")[1].startswith("Deleted 1 file(s)")


# The machine


def finding(findings, what):
    return next(found for found in findings if found.what == what)


def planned(hardware=CPU, **data):
    return make_plan(recipe(data=data), MANY, hardware)


def test_enough_of_everything_needs_no_remedy(tmp_path):
    machine = runs.planning.find_hardware("cpu")
    findings = diagnose(machine, tmp_path, make_plan(recipe(), MANY, machine), MANY)
    assert [found.remedy for found in findings] == [""] * len(findings)
    assert "about" in finding(findings, "memory").needs


def test_each_shortage_has_its_remedy(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(doctor, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    machine = runs.planning.find_hardware("cpu")
    chosen = make_plan(recipe(data={"workers": 2}), MANY, machine)
    short = {found.what: found.remedy for found in diagnose(machine, tmp_path, chosen, MANY) if found.remedy}
    assert set(short) == {"memory", "disk", "shared memory"}
    assert "data.cache=off" in short["disk"]
    without = make_plan(recipe(data={"workers": 0, "cache": "off"}), MANY, machine)
    assert [found.what for found in diagnose(machine, tmp_path, without, MANY) if found.remedy] == ["memory"]


@pytest.mark.parametrize(("on", "samples"), [(("labelled",), 2), (("labelled", "unlabelled"), 5)])
def test_shared_memory_is_that_of_the_batches_that_workers_hold_ready(on, samples, tmp_path):
    data = {"workers": 2, "batch_size": 2, "unlabelled_batch_size": 3, "patch_size": (32, 32, 32)}
    machine = runs.planning.find_hardware("cpu")
    findings = diagnose(machine, tmp_path, make_plan(recipe(on, data=data), MANY, machine), MANY)
    batch = np.zeros((samples, 32, 32, 32), np.float32).nbytes + np.zeros((samples, 32, 32, 32), np.uint8).nbytes
    assert f"about {doctor.size(2 * AHEAD * batch)} for" in finding(findings, "shared memory").needs


@pytest.mark.parametrize(("half_s", "slow"), [(0.05, False), (0.095, True), (0.2, True)])
def test_bfloat16_is_used_where_it_is_a_tenth_faster(half_s, slow, monkeypatch):
    durations = {torch.float32: iter([9.0, 0.1, *[9.0] * 9]), torch.bfloat16: iter([8.0, 8.0, *[half_s] * 9])}
    monkeypatch.setattr(devices, "_has_bfloat16", lambda _: True)
    monkeypatch.setattr(devices, "time_convolution", lambda precision: next(durations[precision]))
    monkeypatch.setattr(devices, "_bfloat16_pays", devices._bfloat16_pays.__wrapped__)
    hardware = devices.find_hardware("cpu")
    assert hardware.float32_is_faster is slow
    assert hardware.precisions == ("float32", "bfloat16")


def test_a_cpu_without_bfloat16_is_not_timed(monkeypatch):
    monkeypatch.setattr(devices, "_has_bfloat16", lambda _: False)
    monkeypatch.setattr(devices, "time_convolution", None)
    assert devices.find_hardware("cpu").precisions == ("float32",)


def test_both_convolutions_that_are_timed_are_computed():
    assert all(devices.time_convolution(precision) > 0 for precision in (torch.float32, torch.bfloat16))


def test_size_of_the_cache_is_foretold(dataset, tmp_path):
    made = runs.read_recipe(dataset, SMALL)
    prepared = runs.planning.prepare(made)
    runs.train(made, tmp_path / "run")
    real = sum(path.stat().st_size for path in (tmp_path / "run" / "cache").glob("*.npz"))
    locations = 4 * 3 * 2000 * 8  # four scans, three classes
    data = prepared.plan.recipe.data
    assert prepared_bytes(prepared.visible.facts.values(), data.spacing_mm) == pytest.approx(real - locations, rel=0.2)


def test_tiny_recipe_of_the_other_tests_is_still_its_own_plan(dataset, tmp_path):
    raw = write_recipe(tmp_path, dataset)
    made = config.parse(config.read(raw), "tiny", COMPONENTS)
    chosen = make_plan(made, MANY, CPU).recipe
    assert chosen.network.options["channels"] == TINY["network"]["options"]["channels"]
    assert make_plan(made, MANY, GPU).recipe.data.patch_size == (16, 16, 16)


@pytest.mark.parametrize("kind", ["", "memory"])
def test_memory_of_a_job_is_the_least_of_its_control_groups_without_what_is_cached(tmp_path, kind):
    limit, used, cached = devices.FILES[kind]
    (tmp_path / "groups").write_text(f"3:cpu:/other\n4:{kind}:/slurm/job_7\n")
    job = tmp_path / "fs" / kind / "slurm" / "job_7"
    job.mkdir(parents=True)
    for group, bytes_ in ((job, "4000"), (job.parent, "max"), (job.parents[1], "9000")):
        (group / limit).write_text(f"{bytes_}\n")
        (group / used).write_text("3000\n")
    (job / "memory.stat").write_text(f"anon 5\n{cached} 1000\n")
    found = [*devices.group_limits(tmp_path / "groups", tmp_path / "fs")]
    assert found == [(4000, 2000), (9000, 3000)]
    assert [*devices.group_limits(tmp_path / "none", tmp_path / "fs")] == []


@pytest.mark.parametrize(("own", "cores"), [("", 2), ("8", 8), ("4", 2)])
def test_cores_are_shared_by_processes_unless_slurm_gave_each_its_own(monkeypatch, own, cores):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(devices.distributed, "size", lambda: 4)
    monkeypatch.setattr(devices.idist, "get_nproc_per_node", lambda: 4)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", own)
    assert devices._cores() == cores
