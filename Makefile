# Each target does the set-up that it needs; the versions stand in pyproject.toml.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0
# small models gain nothing from a second thread: two files of tests at a time instead, each on one
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

.PHONY: install run test test-modes torture check docs clean

install: $(VENV)/.installed

# torch first and by itself: whatever comes after finds it there
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install -e '.[dev]'
	touch $@

run: install
	$(VENV)/bin/luthier run examples/intents --budget 110s

test: $(VENV)/.dev
	$(SIDE_BY_SIDE)

# as on processors with and without instructions for bf16, on one thread and two, and beside a program that uses all processors: half an hour
test-modes: $(VENV)/.dev
	set -e; for processor in fp32 bf16; do for threads in 1 2; do echo "== $$processor, $$threads threads"; \
	PYTHONPATH=tests/modes PROCESSOR=$$processor OMP_NUM_THREADS=$$threads $(VENV)/bin/python -m pytest -n 2 --dist loadfile --timeout 1200; done; done
	echo "== beside a busy program"; $(VENV)/bin/python -c "import torch; a = torch.rand(768, 768); exec('while True: a @ a')" & busy=$$!; \
	trap "kill $$busy" EXIT; $(SIDE_BY_SIDE) --timeout 1200

torture: $(VENV)/.dev
	KILLS=$${KILLS:-200} $(SIDE_BY_SIDE) tests/torture --timeout 3600

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mkdocs build --strict --quiet

docs: $(VENV)/.dev
	$(VENV)/bin/python docs/make_reference.py > docs/reference.md

clean:
	rm -rf $(VENV) site .pytest_cache .ruff_cache
