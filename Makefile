# make demo   the whole lineage on the embedded synthetic sample
# make ui     Dagster's UI on the same lake, http://127.0.0.1:3000
# make quick  the fast tests, which start no process
# make test   linters, types, the import contract and all tests
# make coverage  all tests, and which lines they reach
# make cluster-test  the tests on a real Postgres, Ray and Slurm, and on hosts that die (as root, on Linux)
# make bench  speed against peers, an hour and a half; TERRATORCH=PYTHON names the environment of one of them
# make docs   the manual, in build/docs
# make screenshots  the manual's pictures, of the lake that make demo left
# make .venv  only the environment

# One of 3.11, 3.12 and 3.13.
PYTHON ?= python3
PORT ?= 3000
# Whole files are handed out, in the order of conftest.py.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
BIN := .venv/bin
OPENCV := $(shell sed -n 's/^opencv-python-headless==//p' constraints.txt)

# Packages are installed without bytecode, which Python writes when it first imports them, unless this is set. Then every
# process compiles them anew, and takes three times as long to import the definitions.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: .venv demo ui quick test coverage cluster-test docs bench screenshots weights
.DEFAULT_GOAL := demo

.venv: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
# To compile every module of every package takes a third of the time; Python compiles what is imported.
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[jp2,dev,postgres,ray]'
# mmcv and mmseg depend on the GUI build of OpenCV, which needs libGL. The headless build of the same version brings the
# same module without it. To go when they accept opencv-python-headless.
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps opencv-python-headless==$(OPENCV)
	touch $@

demo: .venv
	$(BIN)/python -m mars_assets.demo

ui: .venv
	env -u DAGSTER_MODULE_NAME $(BIN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

quick: .venv
	$(PYTEST) -m "not process and not ui and not slow"

test: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(PYTEST)

coverage: .venv
	$(PYTEST) --cov --cov-report term

cluster-test: .venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest mars_assets_tests/cluster mars_assets_tests/deployment mars_assets_tests/doctor

bench: .venv
	$(BIN)/python benchmarks/cutting.py
	$(BIN)/python benchmarks/download.py
	$(BIN)/python benchmarks/prithvi.py $(if $(TERRATORCH),--peer $(TERRATORCH))
	$(BIN)/python benchmarks/classification.py $(if $(TERRATORCH),--peer $(TERRATORCH))
	$(BIN)/python benchmarks/segmentation.py
	$(BIN)/python benchmarks/labels.py
	$(BIN)/python benchmarks/orchestration.py
	$(BIN)/python benchmarks/publishing.py
	$(BIN)/python benchmarks/catalogue.py
	$(BIN)/python benchmarks/transfer.py
	$(if $(TERRATORCH),$(BIN)/python benchmarks/tiled_inference.py --peer $(TERRATORCH))

docs: .venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: .venv
	$(BIN)/python -m docs.screenshots

# Makes mars_assets/sample/weights again: an hour on two cores.
weights: .venv
	$(BIN)/python -m mars_assets.sample.pretrain
