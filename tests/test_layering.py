"""The house: who may import whom, who loads torch, and how long a module or a function may be."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline"
LAYERS = (
    {
        "errors",
        "types",
        "files",
        "outputs",
        "logs",
        "interruption",
        "durations",
        "bounds",
        "signatures",
        "memory",
        "terminal",
        "collector",
    },
    {
        "registry",
        "sections",
        "data_section",
        "recipe",
        "decisions",
        "config",
        "choices",
        "needs",
        "strict_json",
        "strict_yaml",
        "plugins",
        "shards",
    },
    {"nifti"},
    {"data"},
    {"distributed", "attempts", "heartbeats"},
    {"planning", "atlases", "networks", "losses", "metrics", "pacing"},
    {"prediction"},
    {"engines", "archives", "checkpoints"},
    {"runs"},
    {"studies"},
    {"console"},
    {"arguments"},
    {"model", "export"},
    {"commands", "api"},
    {"api_training"},
    {"cli"},
)
# Beside the layers: reports is read by runs and cli, and itself reads three modules alone.
REPORTS_READ = {"types", "files", "errors", "strict_json"}
ABOVE_REPORTS = {"runs", "studies", "console", "arguments", "commands", "cli", "model", "api", "api_training"}
LIGHT = (
    "__init__",
    "api",
    "api_training",
    "arguments",
    "cli",
    "commands",
    "durations",
    "console",
    "terminal",
    "sections",
    "data_section",
    "recipe",
    "decisions",
    "config",
    "choices",
    "needs",
    "strict_json",
    "strict_yaml",
    "types",
    "errors",
    "files",
    "outputs",
    "logs",
    "interruption",
    "registry",
    "bounds",
    "memory",
    "model",
    "plugins",
    "shards",
    "reports",
)
HEAVY = {"torch", "monai", "ignite", "nibabel"}
FORBIDDEN = {
    "losses": {"data", "nifti", "config", "recipe", "decisions"},
    "engines": {"config", "recipe", "decisions"},
    "prediction": {"config", "recipe", "decisions"},
    "pacing": {"data", "nifti", "config", "recipe", "decisions", "planning", "networks", "losses", "metrics"},
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path, package=PACKAGE):
    """The part of the house that a file belongs to: ``data``, ``cli``, …"""
    return path.relative_to(package).with_suffix("").parts[0]


def names_of(node):
    """Full names of the modules that an import statement may mean."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, "imports are absolute"
    return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]


def imports_of(tree):
    """Every import of a module, in functions and under TYPE_CHECKING too."""
    return {
        name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for name in names_of(node)
    }


def parts_read(tree):
    """Parts of the house that a module imports."""
    return {name.split(".")[1] for name in imports_of(tree) if name.startswith("pipeline.")} - {"__version__"}


def loaded_at_import(tree):
    """Top-level packages that importing a module imports."""
    found, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {name.split(".")[0] for name in names_of(node)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            nodes += list(ast.iter_child_nodes(node))
    return found


def level(part):
    return next(height for height, parts in enumerate(LAYERS) if part in parts)


def violations(part, read):
    """Parts that a part reads and may not."""
    others = read - {part}
    if part == "reports":
        return others - REPORTS_READ
    wrong = {other for other in others - {"reports"} if level(other) > level(part)}
    wrong |= {"reports"} & others if part not in ABOVE_REPORTS else set()
    return wrong | others & FORBIDDEN.get(part, set())


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) != "__init__.py"], ids=name_of)
def test_no_module_imports_from_a_layer_above_it(path):
    assert violations(part_of(path), parts_read(tree_of(path))) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) in LIGHT], ids=name_of)
def test_light_module_loads_no_heavy_library(path):
    assert loaded_at_import(tree_of(path)) & HEAVY == set()


def test_package_itself_imports_none_of_its_modules():
    assert imports_of(tree_of(PACKAGE / "__init__.py")) == set()


@pytest.mark.parametrize(
    ("part", "source", "expected"),
    [
        ("losses", "from pipeline.data import cache", {"data"}),
        ("losses", "def f():\n    from pipeline.recipe import Term", {"recipe"}),
        ("engines", "if TYPE_CHECKING:\n    from pipeline import config", {"config"}),
        ("data", "import pipeline.runs.build", {"runs"}),
        ("reports", "from pipeline.registry import Registry", {"registry"}),
        ("metrics", "from pipeline.reports.files import write_json", {"reports"}),
        ("engines", "from pipeline.data import nifti\nfrom pipeline import losses", set()),
        ("runs", "from pipeline import __version__, config\nfrom pipeline.reports.files import write_json", set()),
    ],
)
def test_rule_finds_an_import_that_goes_up_wherever_it_stands(part, source, expected):
    assert violations(part, parts_read(ast.parse(source))) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn", {"torch"}),
        ("try:\n    import monai\nexcept ImportError:\n    pass", {"monai"}),
        ("class A:\n    import torch", {"torch"}),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy", {"numpy"}),
        ("def f():\n    import torch", set()),
    ],
)
def test_rule_knows_what_an_import_loads(source, expected):
    assert loaded_at_import(ast.parse(source)) == expected


def module_of(path):
    """The dotted name of a file's module; a package has that of its folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULE_NAMES = {module_of(path) for path in MODULES}


def modules_needed(tree):
    """Our modules that a module needs when it is imported or runs.

    Imports under TYPE_CHECKING are left out: nothing of them is there at run time, and each is a word of an annotation
    that says more than ``Any``. Those in functions count.
    """
    found, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULE_NAMES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            nodes += list(ast.iter_child_nodes(node))
    return found & MODULE_NAMES


def circle_in(graph):
    """A circle of a graph, as a list of names; empty where there is none."""
    done = set()

    def walk(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        found = [] if name in done else next((circle for n in graph[name] if (circle := walk(n, [*way, name]))), [])
        done.add(name)
        return found

    return next((circle for name in graph if (circle := walk(name, []))), [])


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_needs_more_than_15_of_ours(path):
    needed = modules_needed(tree_of(path))
    assert len(needed) <= 15, sorted(needed)


def test_imports_form_no_circle():
    # A package's __init__ only gathers what its modules have, lazily in the one of runs.
    graph = {module_of(path): modules_needed(tree_of(path)) for path in MODULES}
    assert circle_in(graph) == []


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, ["b", "c", "b"]),
        ({"a": ["b", "c"], "b": ["c"], "c": []}, []),
        ({"a": ["a"]}, ["a", "a"]),
    ],
)
def test_rule_finds_a_circle(graph, circle):
    assert circle_in(graph) == circle


# A file is read to be looked at, or repaired, or as one of a caller's own that was never checked.
READERS = {"data/inspection.py", "data/repairs.py", "prediction/predictor.py", "model.py"}


def test_a_file_that_was_checked_is_read_again_in_one_place():
    loaders = {name_of(path) for path in MODULES if "nifti.load(" in ast.unparse(tree_of(path))}
    assert loaders == READERS | {"data/checked.py"}


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) != "terminal"], ids=name_of)
def test_one_module_prints_and_draws(path):
    tree = tree_of(path)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls & {"print", "sys.stdout.write", "sys.stderr.write"} == set()
    assert imports_of(tree) & {"rich.console.Console", "rich.progress", "tqdm"} == set()


@pytest.mark.parametrize(
    "words", [["-c", "import pipeline, fewmask"], ["run.py", "--help"], ["run.py", "train", "--help"]]
)
def test_help_loads_no_library_that_computes(words):
    """So that it takes less than half a second of the processor: `benchmarks/bench_help.py` measures that."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = {words[words[0] == '-c' :]!r}\n"
        "try:\n"
        f"    {words[1] if words[0] == '-c' else 'runpy.run_path(sys.argv[0])'}\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        f"print('loaded:', sorted({HEAVY | {'numpy', 'scipy', 'matplotlib', 'jinja2'}!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "loaded: []"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_at_most_350_lines_and_no_function_over_60(path):
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    assert {
        node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= 60
    } == {}


def names_in(node):
    return {ast.unparse(part) for part in ast.walk(node) if isinstance(part, (ast.Name, ast.Attribute, ast.Subscript))}


def unrelated_pairs(tree):
    """Lines that assign several values at once though none depends on another: each is to have a line of its own."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
            continue
        targets = node.targets[0].elts
        values = node.value.elts if isinstance(node.value, ast.Tuple) else []
        starred = any(isinstance(part, ast.Starred) for part in [*targets, *values])
        if not values or starred or len(node.targets) > 1:
            continue
        later = [names_in(target) & names_in(value) for n, target in enumerate(targets) for value in values[n + 1 :]]
        if not any(later):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_unrelated_values_have_lines_of_their_own_and_no_conditional_is_inside_another(path):
    tree = tree_of(path)
    assert unrelated_pairs(tree) == []
    choices = [node for node in ast.walk(tree) if isinstance(node, ast.IfExp)]
    assert [
        node.lineno for node in choices if any(isinstance(part, ast.IfExp) for part in list(ast.walk(node))[1:])
    ] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a, b = 1, 2", [1]),
        ("a, b = b, a", []),
        ("a.x, a.y = 1, a.x", []),
        ("a, b = f()", []),
        ("A, B = C = (1, 2)", []),
        ("first, *rest = x, y", []),
    ],
)
def test_rule_knows_which_values_are_unrelated(source, expected):
    assert unrelated_pairs(ast.parse(source)) == expected


def long_dataclasses(tree):
    """Dataclasses with more than four fields that a caller gives, of which more than four may be given by place."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        calls = [ast.unparse(each) for each in node.decorator_list if "dataclass" in ast.unparse(each)]
        given = [
            part
            for part in node.body
            if isinstance(part, ast.AnnAssign)
            and "ClassVar" not in ast.unparse(part.annotation)
            and not {"init=False", "kw_only=True"} & set(re.findall(r"\w+=\w+", ast.unparse(part)))
        ]
        if calls and len(given) > 4 and "kw_only=True" not in calls[0]:
            found.append(node.name)
    return found


def vague_functions(tree):
    """Public functions and methods that take any options at all, and do not say which."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {part for node in functions for part in ast.walk(node) if part is not node}
    return [
        node.name
        for node in functions
        if node not in inner
        and not node.name.startswith("_")
        and node.args.kwarg is not None
        and ast.unparse(node.args.kwarg.annotation or ast.Name("Any")) == "Any"
    ]


# What it is given goes to a component that a recipe names, and that refuses what it does not know.
PASSED_ON = {"registry.py": ["build"]}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_long_dataclasses_are_made_by_keyword_and_public_functions_name_their_options(path):
    tree = tree_of(path)
    assert long_dataclasses(tree) == []
    assert vague_functions(tree) == PASSED_ON.get(name_of(path), [])


@pytest.mark.parametrize(
    ("source", "dataclasses", "functions"),
    [
        ("@dataclass\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int\n    e: int", ["A"], []),
        ("@dataclass(kw_only=True)\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int\n    e: int", [], []),
        ("@dataclass\nclass A:\n    a: int\n    b: int\n    c: int\n    d: int", [], []),
        ("def f(**how: Any): ...", [], ["f"]),
        ("class A:\n    def f(self, **how): ...", [], ["f"]),
        ("def f(**how: Unpack[How]): ...\ndef _g(**how: Any): ...", [], []),
    ],
)
def test_rule_knows_what_is_long_and_what_is_vague(source, dataclasses, functions):
    tree = ast.parse(source)
    assert (long_dataclasses(tree), vague_functions(tree)) == (dataclasses, functions)
