# make quickstart   set up, draw with the shipped model, train and judge a small one; pictures in
#                   runs/quickstart
# make demo         serve the shipped model and its page at http://127.0.0.1:$(PORT); Ctrl-C ends it
# make report       the whole report of that run: 504 prompts in three modes, controls, questions
# make test         set up and run every test
# make test-tpu     compile train steps of 7B for TPUs, without one, and compare their reports
#                   (installs libtpu)
# make drill        kill, double and stop every command $(TIMES) times: hours (launch/README.md)
# Both need only make and Python >= 3.11; everything is installed into $(VENV).

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
RUN ?= runs/quickstart
PORT ?= 8000
DRILL ?= runs/drills
TIMES ?= 20
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# What the second leg repeats: the model against its goldens, the step, the pipeline, a short run.
SMOKE = tests/test_imports.py tests/rules tests/training/test_objective.py tests/test_train.py \
  tests/data/test_pipeline.py tests/models tests/inference/test_identity.py
# The allocator keeps its pages (Linux): 7 to 14 % fewer CPU-seconds on a CPU with AVX2 only, where
# huge pages took 30 % more; 17 % fewer on one with AVX-512, where huge pages saved 12 to 18 %.
QUICK = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_ARENA_MAX=1 $(BIN)/python
# Test processes side by side.
JOBS ?= 2
# The report of the quickstart: 144 prompts in three modes, and no controls.
SHORT = --prompts 24 --controls 0 --pairs 8 --knowledge 24 --edits 12 --questions 0
# Two devices, half of the rows on each: more steps a second on two cores (a sixth, with two rows).
TRAIN = XLA_FLAGS=--xla_force_host_platform_device_count=2 $(QUICK) -m unireason_jax.train
LEG = $(shell $(PYTHON) -c 'import sys; print("py311" if sys.version_info < (3, 12) else "py312")' 2>/dev/null)

.PHONY: quickstart demo report test test-fast test-tpu smoke drill lint freeze clean

quickstart: $(STAMP)
	@echo "1 of 4: the model in notebooks/demo draws a first picture into $(RUN)/first"
	$(QUICK) -m unireason_jax.generate --checkpoint notebooks/demo \
	  --prompt "a red circle left of a blue square" --out $(RUN)/first
	@echo "2 of 4: a small model learns to see (alignment)"
	$(TRAIN) --config configs/quickstart.py:alignment --workdir $(RUN)/alignment
	@echo "3 of 4: it learns to plan, draw, look and refine; $(RUN)/samples shows how far it is"
	$(TRAIN) --config configs/quickstart.py --workdir $(RUN) \
	  --config.init_from=$(RUN)/alignment
	@echo "4 of 4: it is judged on prompts it has not seen, in $(RUN)/report"
	$(QUICK) -m unireason_jax.evaluate --checkpoint $(RUN) --out $(RUN)/report --seed 2 $(SHORT)

demo: $(STAMP)
	@echo "The model in notebooks/demo; the page says its address once it answers"
	$(QUICK) -m unireason_jax serve --checkpoint notebooks/demo --port $(PORT) --warm --open

report: $(STAMP)
	$(QUICK) -m unireason_jax.evaluate --checkpoint $(RUN) --out $(RUN)/whole_report --seed 2

test: $(STAMP)
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile -m "not drill and not tpu"

test-fast: $(STAMP)
	$(BIN)/python -m pytest tests -n $(JOBS) --dist loadfile -m "not slow and not drill and not tpu"

smoke: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not drill" $(SMOKE)

test-tpu: $(STAMP)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints/$(LEG).txt -e '.[tpu]'
	$(BIN)/python -m pytest tests/compilation/test_tpu_programs.py -m tpu

drill: $(STAMP)
	$(BIN)/python -m pytest tests -n $(JOBS) -m drill
	$(BIN)/python -m launch.drills kills --times $(TIMES) --out $(DRILL)/kills
	$(BIN)/python -m launch.drills pairs --times $(TIMES) --out $(DRILL)/pairs
	$(BIN)/python -m launch.drills stops --times $(TIMES) --out $(DRILL)/stops
	$(BIN)/python launch/kill_drill.py --kills $(TIMES) --out $(DRILL)/hosts

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

freeze: $(STAMP)
	{ head -n 1 constraints/$(LEG).txt; $(BIN)/python -m pip freeze --exclude-editable; \
	  grep '^libtpu==' constraints/$(LEG).txt; } > $(VENV)/freeze.txt  # of TPUs, not installed here
	mv $(VENV)/freeze.txt constraints/$(LEG).txt

clean:
	rm -rf $(VENV) runs

$(STAMP): pyproject.toml constraints/$(LEG).txt
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 found; set PYTHON=/path/to/python3.11 or newer"; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) (once, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints/$(LEG).txt -e '.[dev]'
	@touch $(STAMP)
