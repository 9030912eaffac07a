# What a fresh machine needs: Python 3.11 to 3.13 and make. Everything else comes into .venv, in this folder.
PYTHON ?= python3
BIN := .venv/bin
DEMO := results/demo
# What the system trusts, a company's certificates among it.
export UV_SYSTEM_CERTS ?= true

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types docs wheel dist lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready  ## the virtual environment .venv: locked packages and the command .venv/bin/eigencam

demo: setup  ## all methods and evaluators on the embedded scenes: tables, a report, an image grid
	EIGENCAM_RESULTS=$(DEMO)/runs $(BIN)/eigencam run experiment=demo
	$(BIN)/eigencam table --results $(DEMO)/runs --out $(DEMO)
	$(BIN)/eigencam report --results $(DEMO)/runs --out $(DEMO)/report.html
	for model in scenes_vgg scenes_resnet; do $(BIN)/eigencam explain --out $(DEMO) --model $$model --images 6 \
		--method eigencam,eigencam_centered,cam,gradcam,gradcampp,center_gaussian,random dataset.count=240 || exit 1; done

# With EIGENCAM_SHARED=FOLDER also on real images and weights.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test: setup lint $(if $(ROOM),,types)  ## lint, types and the fast part of the tests; ROOM=methods: of one room, without types
	$(PYTEST) --part fast $(if $(ROOM),--room $(ROOM))

check: setup docs  ## what make test leaves out: every case, the long tests, the site
	$(PYTEST) --part rest $(if $(ROOM),--room $(ROOM))

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: setup  ## pyright
	$(BIN)/pyright

docs: setup  ## the pages as a site in build/site: a broken link or a missing docstring fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: setup  ## wheel and source distribution in dist/, both checked; about two minutes
	$(BIN)/python scripts/check_wheel.py --out dist

wheel: setup  ## the wheel, installed into an empty environment beside Hugging Face's datasets; about a minute
	$(BIN)/python scripts/check_wheel.py

lock: setup  ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --extra test --group dev --upgrade --quiet --output-file requirements.lock pyproject.toml

clean:  ## remove the environment and what the demo made
	rm -rf .venv $(DEMO) build dist *.egg-info

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		"Python 3.11 to 3.13 is needed and this is %d.%d: make PYTHON=python3.12 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.lock
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
