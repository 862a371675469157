# Two commands for a new machine: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow test-lowest lint docs wheel clean

demo: .venv/installed
	@rm -rf demo && start=$$(date +%s) && export PATH="$(BIN):$$PATH" PS4='$$ ' && set -ex \
	&& fewmask phantom demo/data --labelled 8 --unlabelled 16 \
	&& fewmask train semisupervised dataset=demo/data max_steps=200 validate_every=50 --output demo/run \
	&& fewmask validate demo/run \
	&& fewmask predict demo/run demo/data/imagesTs --output demo/masks \
	&& { set +x; } 2>/dev/null && printf '%s\n' "" "Done in $$(($$(date +%s) - start)) s. Look at:" \
	   "  demo/data/dataset.json     the phantom dataset" \
	   "  demo/run/report.html       open it in a browser: how good, how sure, where it fails" \
	   "  demo/run/summary.json      validation: Dice by class; cases.csv by case" \
	   "  demo/run/history.csv       every term of the loss at every step" \
	   "  demo/run/checkpoints/      the last and the best weights" \
	   "  demo/masks/                a mask for every scan that had none"

# A module stays in one process, which prepares what its tests share once.
test: lint
	$(BIN)/pytest -n auto --dist loadscope -m "not slow"

test-slow: .venv/installed
	$(BIN)/pytest -m slow

# In an environment of its own, whose old libraries warn of what has changed in newer ones.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/pytest -n auto --dist loadscope -m "not slow" -W ignore::DeprecationWarning

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The site of the documentation; a warning is an error. Open site/index.html.
docs: .venv/installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . site

# The wheel and the source archive, in dist/.
wheel: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check build && $(BIN)/python -m build

clean:
	rm -rf .venv .venv-lowest demo site dist

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv-lowest/installed: pyproject.toml lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint lowest.txt --editable '.[dev]'
	touch $@
