# Two commands matter: `make demo` does the main job, `make test` checks everything. Both set up
# what they need from nothing.

PYTHON ?= python3
BIN := .venv/bin
ENV := .venv/.installed
DATA := $(wildcard ../shared/data)
export HF_HUB_OFFLINE := 1
ifneq ($(DATA),)
export HEADWATER_DATA ?= $(abspath $(DATA))
endif

.PHONY: demo test lint types tests browser-test shapes docs docs-test package benchmarks clean

demo: $(ENV)
	$(BIN)/headwater demo --out headwater-demo

# Types keep one core busy for a minute; before the tests the other would be idle.
test: lint
	$(MAKE) --jobs=2 types tests

lint: $(ENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(ENV)
	$(BIN)/pyright

# Three on two cores: while one waits (for a browser, a cluster, a process) two compute. Compiled
# tests are kept whatever the environment says: each of the three would compile them anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Shapes are checked where they are arithmetic, in its own tests.
tests: $(ENV)
	$(PYTEST) tests/gradients tests/features \
	  --jaxtyping-packages=headwater.gradients,headwater.features,beartype.beartype
	$(PYTEST) --ignore tests/gradients --ignore tests/features

# The page in a browser; installs Chromium where there is none.
browser-test: $(ENV)
	command -v chromium || command -v chromium-browser || apt-get install --yes chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/viewer/test_page.py

# All tests with the shapes of every function checked; slower by a third.
shapes: $(ENV)
	$(PYTEST) --jaxtyping-packages=headwater,beartype.beartype

# The documentation as a site, site/site/index.html; warnings are errors.
docs: $(ENV)
	$(BIN)/python docs/site.py

# Every block of the tutorial, its notebook and the stories, as a reader would run them: an hour.
docs-test: $(ENV)
	rm -rf docs-test
	OMP_NUM_THREADS=2 $(BIN)/python docs/run.py --in docs-test docs/start/scenes.md \
	  docs/start/scenes.ipynb docs/stories/fingers.md docs/stories/character-and-style.md \
	  docs/stories/unsafe.md docs/stories/contributors.md docs/stories/opt-out.md

# What would be published; the wheel alone, in a fresh environment, does the main job.
package: $(ENV)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear dist/alone
	dist/alone/bin/pip install --quiet -c constraints.txt torch
	dist/alone/bin/pip install --quiet -c constraints.txt dist/*.whl
	dist/alone/bin/headwater demo --out dist/demo

benchmarks: $(ENV)
	$(BIN)/python benchmarks/isolation.py

clean:
	rm -rf .venv headwater-demo headwater-answers site docs-test dist

# torch first and pinned: left to itself pip would take the newest build with all of CUDA.
$(ENV): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
