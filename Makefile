# redress: `make demo` shows the main job, `make test` checks it. Both build the environment first.
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE :=
BENCH_HELPERS := benchmarks/data/libraries.py $(addprefix benchmarks/papers/,ablation.py bodies.py ccaf.py ifd.py pixel_sampling.py tiny_clip.py)

N ?= 10000
SEED ?= 0
KILLS ?= 100

.PHONY: setup demo test test-long test-system fuzz campaign strategies coverage lint hooks docs bench tables lock digests clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else f"redress needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 setup")'
	@command -v c++ >/dev/null || { echo "redress needs a C++ compiler (c++); on Debian: apt-get install g++"; exit 1; }
	@echo "building the environment in $(VENV) (a few GB of wheels, pinned by requirements.lock)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --require-hashes --no-deps --compile-bytecode -r requirements.lock
	@printf '%s\n' '#!$(abspath $(BIN))/python' 'import runpy, sys' 'sys.path.insert(0, "$(CURDIR)")' 'runpy.run_module("orchestration", run_name="__main__")' > $(BIN)/redress
	@chmod +x $(BIN)/redress
	@touch $@

demo: setup
	$(BIN)/redress demo

test: setup
	$(BIN)/python -m pytest -m "not system and not long" -n 2 --dist loadfile --durations=25

test-long: setup
	$(BIN)/python -m pytest -m long -n 2 --dist loadfile --durations=25

test-system: setup
	$(BIN)/python -m pytest -m "system and not long" --durations=25

fuzz: setup
	$(BIN)/python -m tests.fuzz --inputs $(N) --seed $(SEED)

campaign: setup
	$(BIN)/python -m tests.campaign --kills $(KILLS) --seed $(SEED)

strategies: setup
	$(BIN)/python -m tests.orchestration.engine.strategies.cells

coverage: setup
	$(BIN)/python -m pytest -m "not ray and not system and not long" -n 2 --dist loadfile --cov --cov-report=term:skip-covered

lint: setup
	$(BIN)/prek run --all-files --show-diff-on-failure

hooks: setup
	$(BIN)/prek install

docs: setup
	$(BIN)/python -m sphinx -b html -W --keep-going -q -c docs . build/docs
	@echo "the pages are in build/docs/index.html"

bench: setup
	@for file in $(filter-out %/__init__.py $(BENCH_HELPERS),$(wildcard benchmarks/*/*.py)); do \
		module=$$(echo "$${file%.py}" | tr / .); \
		printf '\n== %s\n' "$$module"; \
		$(BIN)/python -m "$$module" || exit 1; \
	done

tables: setup
	@for name in tiny_clip pixel_sampling ifd bodies ccaf; do \
		printf '\n== %s\n' "$$name"; \
		$(BIN)/python -m "benchmarks.papers.$$name" || exit 1; \
	done

lock: setup
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group dev --group docs --group system-test -o requirements.lock

# Lines for infra/.env: what the tags of the images in infra/ name today.
digests:
	@sed -nE 's/^ *(image:|FROM) +([^ $$]+)\$$\{([A-Z]+_DIGEST)(:-)?\}$$/\3 \2/p' infra/compose.yaml infra/Dockerfile infra/mlflow.Dockerfile | \
	while read -r name image; do \
		digest=$$(docker buildx imagetools inspect "$$image" --format '{{.Manifest.Digest}}') || exit 1; \
		echo "$$name=@$$digest"; \
	done

clean:
	rm -rf build demo .mypy_cache .ruff_cache .hypothesis
	find datasets methods orchestration benchmarks tests -name __pycache__ -type d -prune -exec rm -rf {} +
