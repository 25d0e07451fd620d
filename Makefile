# `make demo` and `make test` set up all that they need. `make help` lists the rest.
BIN := .venv/bin
PYTEST_ARGS ?=
TAKEN_OUT_ARGS ?=
# tests wait for brokers and devices more than they compute, so there are two workers to a core
WORKERS = $(shell $(BIN)/python -c "import os; print(min(8, 2 * (os.cpu_count() or 1)))")

# what pytest makes of the tests' modules is kept for the next run: to make it anew takes each worker as long as many tests
KEPT = PYTHONDONTWRITEBYTECODE=

.PHONY: help setup setup-dev demo test matrix taken-out agent-package lint types format contract pictures bench wheel lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## .venv from the hash-pinned lock, and Mosquitto where it is missing
	@.ci/setup.sh venv mosquitto bytecode

setup-dev: ## the same with what tests, lint and types need
	@.ci/setup.sh dev mosquitto bytecode

demo: setup ## a broker, a controller and six agents: publish, update, break, roll back
	@$(BIN)/flotilla demo

test: setup-dev ## all tests, against a real Mosquitto
	@.ci/setup.sh wheels validator
	@$(KEPT) $(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

matrix: setup-dev ## cut an update off, and have the disk refuse, at every single call (long; strace; Linux)
	@.ci/setup.sh tools
	@FLOTILLA_MATRIX=all FLOTILLA_MATRIX_LOG=matrix.log $(BIN)/pytest -n auto -q --timeout 0 tests/matrix

taken-out: setup-dev ## take the code of each promise out, in a copy, and look whether its tests fail (some minutes)
	@$(BIN)/python -m tests.taken_out $(TAKEN_OUT_ARGS)

agent-package: wheel ## build/agent: the agent as a package of its own, for `flotilla build build/agent --platform …`
	@$(BIN)/python examples/agent/lay_out.py build/agent dist/*.whl requirements.lock

lint: setup-dev ## ruff: rules and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .

types: setup-dev ## mypy, strict
	@$(BIN)/mypy

format: setup-dev ## lay the code out
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix-only .

contract: setup-dev ## write docs/contract/ and the life-cycle diagram anew from the code
	@$(BIN)/python -m tests.contract_documents

pictures: setup-dev ## docs/images: the page as a real Chromium shows it
	@$(BIN)/python -m tests.page_pictures

bench: setup-dev ## every benchmark: prints tables, states the machine
	@for name in idle_agent release_latency repository_index push update_bytes; do $(BIN)/python -m benchmarks.bench_$$name || exit 1; done
	@$(BIN)/python -m benchmarks.bundles
	@$(BIN)/python -m benchmarks.fleet

wheel: setup-dev ## dist/flotilla_ota-VERSION-py3-none-any.whl, to install on devices
	@rm -rf dist && $(BIN)/uv build --quiet --wheel --no-build-isolation --out-dir dist . && ls dist/*.whl

lock: setup-dev ## pin every package anew, by hash
	@$(BIN)/uv pip compile pyproject.toml --extra controller --group build --universal --generate-hashes \
		--no-header --no-annotate --quiet --upgrade -o requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --extra controller --group dev --universal --generate-hashes \
		--constraint requirements.lock --no-header --no-annotate --quiet --upgrade -o requirements-dev.lock
	@cd .ci/asyncapi && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent \
		&& node -e 'const fs = require("fs"), lock = JSON.parse(fs.readFileSync("package-lock.json")); \
		for (const one of Object.values(lock.packages)) delete one.funding; \
		fs.writeFileSync("package-lock.json", JSON.stringify(lock, null, 2) + "\n")'

clean: ## everything that the commands above made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
