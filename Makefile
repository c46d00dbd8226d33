# Each target does the set-up that it needs; the ranges of versions stand in pyproject.toml, the exact ones in requirements.lock.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
LOCK := requirements.lock
# small models gain nothing from a second thread: two files of tests at a time instead, each on one; the slow files first (tests/conftest.py)
# what one process has compiled of the sources, a hundred others need not, also where a container asks to keep none of it
SIDE_BY_SIDE := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install run test test-modes torture test-lowest test-peers examples wheel lock check docs clean

install: $(VENV)/.installed

# torch first and by itself: whatever comes after finds it there
$(VENV)/.installed: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c $(LOCK) torch
	$(PIP) install -c $(LOCK) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install -c $(LOCK) -e '.[dev]'
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

# with the lowest versions within the ranges (torch's excepted)
test-lowest: $(VENV)/.dev
	$(PYTHON) -m venv .lowest
	$(VENV)/bin/python .ci/link_torch.py $$(.lowest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	$(VENV)/bin/python .ci/lowest.py > .lowest/constraints
	.lowest/bin/python -m pip --quiet install -c .lowest/constraints -e '.[dev]'
	OMP_NUM_THREADS=1 .lowest/bin/python -m pytest -n 2 --dist loadfile

# the tests that need programs of others, which `make test` leaves out; what these bring beside our own packages lies in .peers
test-peers: $(VENV)/.dev
	$(PYTHON) -m venv .peers
	beside=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	echo "import site; site.addsitedir('$$beside')" > $$(.peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth
	$(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["peers"], sep="\n")' > .peers/requirements
	.peers/bin/python -m pip --disable-pip-version-check --quiet install -r .peers/requirements
	server=.peers/bin/llama-server-vulkan; if [ -x $$server ]; then export LUTHIER_LLAMA_SERVER=$$PWD/$$server; fi; \
	OMP_NUM_THREADS=1 .peers/bin/python -m pytest -m peer -rs tests/delivery tests/pilot/test_serving_engines.py tests/app/server

torture: $(VENV)/.dev
	KILLS=$${KILLS:-200} $(SIDE_BY_SIDE) tests/torture --timeout 3600 -k "$(or $(ONLY),test)"

# every command of examples/README.md, smaller, and what the pages about shipping say to type
examples: $(VENV)/.dev
	set -e; work=$$(mktemp -d); trap "rm -rf $$work" EXIT; $(VENV)/bin/python .ci/examples.py $$work; $(VENV)/bin/python .ci/ship_it.py $$work

# the wheel, built and installed in an environment of its own, away from this folder
wheel: $(VENV)/.dev
	.ci/wheel $(VENV)/bin/python

# the newest versions within the ranges; run the tests before you commit it
lock:
	$(PYTHON) -m venv .lock
	.lock/bin/python -m pip --quiet install torch==2.13.0
	.lock/bin/python -m pip --quiet install -e '.[dev]'
	sed -n '/^#/p' $(LOCK) > .lock/requirements
	.lock/bin/python -m pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)[+].*/\1/' >> .lock/requirements
	mv .lock/requirements $(LOCK)
	rm -rf .lock

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python .ci/door.py
	$(VENV)/bin/mkdocs build --strict --quiet

docs: $(VENV)/.dev
	$(VENV)/bin/python docs/make_reference.py > docs/reference.md

clean:
	rm -rf $(VENV) .lock .lowest .peers site dist .pytest_cache .ruff_cache
