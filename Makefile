# Each target sets up .venv by itself; Python >= 3.11 and a package registry are all it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check fuzz kill bench docs licences clean

# Boxes on two photographs, in demo/.
demo: .venv/ready-demo
	photos=$$($(BIN)/python -c 'import pathlib, skimage; print(pathlib.Path(skimage.__file__).parent / "data")') && \
	$(BIN)/boxwright detect "$$photos/chelsea.png" "$$photos/astronaut.png" --out demo --json-file demo/detections.jsonl

# One thread per worker: two test processes with two threads each are slower on two cores.
test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --durations 10

check: .venv/ready-dev
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

# Damaged files for every reader, or for some: make fuzz COUNT=4000 SEED=3 READERS="coco voc"
COUNT ?= 50000
SEED ?= 0
READERS ?=

fuzz: .venv/ready-dev
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --count $(COUNT) --seed $(SEED) $(if $(READERS),--readers $(READERS))

# Times against peers, within 20 minutes on two cores. For docs: make bench ROUNDS=7 OUT=docs/benchmarks.json, docs/check.py --fill.
ROUNDS ?= 3
OUT ?= build/benchmarks.json
bench: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/everything.py --rounds $(ROUNDS) --out $(OUT)

# Commands killed at random moments and run again: some minutes. KILLS is their number, SEED draws other moments.
KILLS ?= 30
kill: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --count $(KILLS) --seed $(SEED)

# The site of docs/, in site/, with its reference made from the code; fails where a page does not hold.
docs: .venv/ready-docs
	$(BIN)/python docs/check.py
	$(BIN)/python docs/reference.py
	$(BIN)/zensical build --strict

# What is installed with boxwright, and under which licence.
licences: .venv/ready-dev
	$(BIN)/python docs/licences.py

clean:
	rm -rf .venv demo site .cache

# uv, because pip may prefer a local torch wheel where PIP_FIND_LINKS names one; made anew when pyproject.toml changes.
.venv/ready-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("boxwright needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[$*]"
	@touch $@
