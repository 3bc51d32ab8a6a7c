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

.PHONY: demo test lint types tests browser-test shapes benchmarks clean

demo: $(ENV)
	$(BIN)/headwater demo --out headwater-demo

test: lint types tests

lint: $(ENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(ENV)
	$(BIN)/pyright

tests: $(ENV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# The page in a browser; installs Chromium where there is none.
browser-test: $(ENV)
	command -v chromium || command -v chromium-browser || apt-get install --yes chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/viewer/test_page.py

# The same with the shapes of every function checked; slower by a third.
shapes: $(ENV)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  --jaxtyping-packages=headwater,beartype.beartype

benchmarks: $(ENV)
	$(BIN)/python benchmarks/isolation.py

clean:
	rm -rf .venv headwater-demo headwater-answers

# torch first and pinned: left to itself pip would take the newest build with all of CUDA.
$(ENV): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
