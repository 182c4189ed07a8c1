# Two commands do all the set-up: `make demo` and `make test`. Nothing but Python >= 3.11 is needed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

# Other people's programs ask our server in the tests, each pinned in an environment of its own, never in ours.
# Where they cannot be had, `make test WITHOUT_CLIENTS=1` leaves their tests out; without npm only Node's are, and that is said.
CLIENTS := .clients
CLIENT_NAMES := sdk cli dspy litellm schemathesis
NPM := $(shell command -v npm 2>/dev/null)
WITH_CLIENTS := $(if $(WITHOUT_CLIENTS),,clients)
NO_CLIENTS := $(if $(WITHOUT_CLIENTS),and not clients,$(if $(NPM),,and not node))

.PHONY: demo test test-long clients check format docs constraints bench-real bench-train bench-generate bench-climb bench-gpu bench-serve clean

demo: $(VENV)/.installed
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/stepladder demo

test: $(VENV)/.installed-test $(VENV)/.browser $(WITH_CLIENTS)
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python -m pytest -m "not long $(NO_BROWSER) $(NO_CLIENTS)"

test-long: $(VENV)/.installed-test $(VENV)/.browser $(WITH_CLIENTS)
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python -m pytest -m "(long or not long) $(NO_BROWSER) $(NO_CLIENTS)"

check: $(VENV)/.installed-check
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m stepladder.interfaces.cli.reference --check docs/reference
	$(BIN)/python benchmarks/tables.py --check

format: $(VENV)/.installed-check
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

docs: $(VENV)/.installed-check
	$(BIN)/python -m stepladder.interfaces.cli.reference docs/reference
	$(BIN)/python benchmarks/tables.py

bench-real: $(VENV)/.installed
	$(BIN)/python benchmarks/real/run.py

# Two and a half hours at most with the machine to itself; BENCH="--workloads A,B --rounds 1" takes a part, and a second call what is missing.
bench-train: $(VENV)/.installed
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python benchmarks/bench_train.py $(BENCH)
	$(BIN)/python benchmarks/tables.py

# Give it the machine alone; BENCH="--rungs tuned --rounds 3" takes a part, and a second call what is missing.
bench-generate: $(VENV)/.installed
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python benchmarks/bench_generate.py $(BENCH)
	$(BIN)/python benchmarks/tables.py

# Hours, most of them the script's; give it the machine alone. A second call does what is missing.
bench-climb: $(VENV)/.installed
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python benchmarks/bench_climb.py $(BENCH)
	$(BIN)/python benchmarks/tables.py

# On a machine without a GPU only a dry run with a tiny model, which shows that every part works and says what was not run.
bench-gpu: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_gpu.py $(BENCH)

# Give it the machine alone; BENCH="--only reads,chats" takes a part.
bench-serve: $(VENV)/.installed
	$(BIN)/stepladder models pull smollm2-135m-instruct
	$(BIN)/python benchmarks/bench_serve.py $(BENCH)
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) $(CLIENTS) build dist

clients: $(CLIENT_NAMES:%=$(CLIENTS)/%/.installed) $(if $(NPM),$(CLIENTS)/node/.installed)
	@$(if $(NPM),true,echo "No npm on this machine: the tests with OpenAI's Node SDK are left out.")

# Nothing of a client comes into our own environment; its pins are whole, so pip resolves nothing.
ifeq ($(UV),)
INSTALL_CLIENT = $(BIN)/python -m venv --clear --without-pip $(@D) && \
	$(BIN)/python -m pip --python $(@D)/bin/python install --disable-pip-version-check -q --no-deps --no-compile
else
INSTALL_CLIENT = $(UV) venv -q --clear --python '>=3.11' $(@D) && $(UV) pip install -q --python $(@D)/bin/python --no-deps
endif

$(CLIENTS)/%/.installed: tests/clients/environments/%.txt | $(BIN)/python
	@echo "Installing the environment of the client '$*'."
	@$(INSTALL_CLIENT) -r $<
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/environments/package-lock.json
	@mkdir -p $(@D) && cp tests/clients/environments/package.json tests/clients/environments/package-lock.json $(@D)/
	@cd $(@D) && $(NPM) ci --no-audit --no-fund --silent
	@touch $@

# The first line of every install says how much will be downloaded. With uv the right torch for the machine is chosen.
ifeq ($(UV),)
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Stepladder needs Python 3.11 or newer; try: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
else
INSTALL = $(UV) pip install --python $(BIN)/python --torch-backend=auto -c constraints.txt
$(VENV)/bin/python:
	$(UV) venv --seed --python '>=3.11' $(VENV)
endif

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing: about 0.5 GB with a CPU build of torch, several GB where the index serves torch with CUDA (README: the CPU route)."
	$(INSTALL) -q -e '.[all]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) -q -e '.[all,test]'
	@touch $@

# The report is opened in a real Chromium. Where none can be had, its tests are left out, and that is said.
NO_BROWSER = $(shell command -v chromium >/dev/null 2>&1 || echo "and not browser")
$(VENV)/.browser: | $(VENV)/bin/python
	@if ! command -v chromium >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && apt-get install -qq -y chromium >/dev/null; fi
	@command -v chromium >/dev/null 2>&1 || echo "No chromium on this machine: the browser tests of the report are left out."
	@touch $@

constraints: $(VENV)/.installed-check
	( echo "# Every dependency at the version the project is tested with, for Python 3.11 to 3.14. Made by: make constraints"; \
	  $(BIN)/python -m pip list --format=freeze | grep -v -i '^stepladder\|^pip==\|^setuptools==\|^wheel==' | sed 's/+cpu//' ) > constraints.txt

$(VENV)/.installed-check: $(VENV)/.installed-test
	$(INSTALL) -q -e '.[all,test,check]'
	@touch $@
