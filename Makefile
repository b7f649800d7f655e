# Everything starts from nothing but python3 (3.11 or later) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# A test file at a time on each core, at most four: torch is hardly quicker with two for one test.
PYTEST := python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile
test test-exhaustive wheel-test: export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-exhaustive test-all lint wheel-test docs clean help

help:
	@echo "make demo             explain examples/panda.jpg, write graph.html"
	@echo "make test             run the tests, but the exhaustive ones (a few minutes)"
	@echo "make test-exhaustive  run those: every model, real weights at length"
	@echo "make test-all         run both"
	@echo "make lint             ruff and mypy"
	@echo "make wheel-test       build the wheel, install it elsewhere, test it there"
	@echo "make docs             build the site into build/site"
	@echo "make clean            remove what the other targets made"

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (torch is about 5 GB with CUDA; a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --constraint constraints.txt --editable . --group dev
	@touch $@

demo: $(READY)
	$(BIN)/expcam-circuit examples/panda.jpg --out graph.html

test: $(READY)
	$(BIN)/$(PYTEST) -m "not exhaustive"

test-exhaustive: $(READY)
	$(BIN)/$(PYTEST) -m exhaustive

test-all: test test-exhaustive

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests are copied, so that the installed package is tested and not the source beside them:
# what a wheel can lack, which is data files, the command and its dependencies.
wheel-test: $(READY)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/build.log
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --quiet install --upgrade "pip>=25.1"
	build/wheel/venv/bin/python -m pip --quiet install --constraint constraints.txt build/wheel/*.whl --group test
	cp -r tests examples notebooks docs pyproject.toml build/wheel/
	cd build/wheel && venv/bin/$(PYTEST) -m "not exhaustive" --durations=0 --durations-min=20 \
		tests/e2e tests/test_init.py tests/classifier/sources/test_bundled.py tests/classifier/sources/test_lite0.py

# From the same environment, so that names and the command's help are those of this code.
docs: $(READY)
	$(PIP) install --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build dist graph.html .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
