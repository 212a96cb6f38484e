# Commands:  make quickstart          train, evaluate and draw on the sample jets
#            make quickstart-clouds   label the sample LArTPC events with the weights of this repository
#            make test                run the whole test suite
#            make check               check format, types and imports (under a minute)
#            make docs                build the documentation site, with its tutorials, in build/site
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.installed
CHECKS  = $(VENV)/.check-installed
RUN12   = data/sample_data/run12

.PHONY: quickstart quickstart-clouds test docs check check-python check-cpp check-types check-imports format install kernels kernels-if-possible check-nvcc check-cuda check-emulated \
  check-emulated-part check-emulated-sanitizers check-sanitizers emulator mutants fuzz crash generate bench clean

quickstart: kernels-if-possible
	$(BIN)/python train_pelican_classifier.py --yaml config/finetune_48k.yaml --pretrained-classes 0,8 --datadir $(RUN12) --prefix quickstart
	@echo
	@echo "Metrics of the best epoch on the test jets (log/quickstart.Best.metrics.csv):"
	@$(BIN)/python tools/show_metrics.py log/quickstart.Best.metrics.csv
	@echo
	@echo "log          log/quickstart.log"
	@echo "picture      log/quickstart.png   (loss and ROC curves)"
	@echo "predictions  predict/quickstart.best.test.pt   predict/quickstart.best.test_ROC.csv"
	@echo "weights      model/quickstart_best.pt"

quickstart-clouds: kernels-if-possible
	$(BIN)/python train_segmentation.py --eval --loadfile weights/lartpc_unet.pt --testfile data/sample_data/lartpc --min-points 0 \
	  --prefix clouds --plot-numbers 0 1 2 3 --overwrite
	@echo
	@echo "Metrics on the 80 sample events (log/clouds.Best.metrics.csv):"
	@$(BIN)/python tools/show_metrics.py log/clouds.Best.metrics.csv
	@echo
	@echo "pictures     log/clouds/eval.lartpc.event0.classes.png and others   (true and predicted classes, errors)"
	@echo "confusion    predict/clouds.best.test.lartpc_confusion.png"
	@echo "predictions  predict/clouds.best.test.lartpc.h5   (docs/segment_lartpc.md shows how to read them)"

test: kernels check-nvcc check-emulated-part
	PUFFIN_REQUIRE_KERNELS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

# The site: executes the tutorials, checks all links. To write pages: .venv/bin/mkdocs serve
docs: kernels-if-possible
	$(BIN)/pip install --quiet --no-build-isolation -e '.[docs]'
	rm -rf build/tutorials
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site         build/site/index.html"

# The checks that need no tests. The hooks of .pre-commit-config.yaml run the same four targets.
check: check-python check-cpp check-types check-imports

check-python: $(CHECKS)
	$(BIN)/ruff format --check
	$(BIN)/ruff check

check-cpp: $(CHECKS)
	git ls-files csrc '*.cu' '*.cpp' '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

check-types: $(CHECKS)
	$(BIN)/mypy

# The floors of the package: which module may import which (pyproject.toml, [tool.importlinter])
check-imports: $(CHECKS)
	PYTHONPATH=src $(BIN)/lint-imports

# Rewrite the sources in the format that `make check` expects
format: $(CHECKS)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	git ls-files csrc '*.cu' '*.cpp' '*.h' | xargs $(BIN)/clang-format -i

# The kernel libraries: for the CPU, and for CUDA where nvcc and a CUDA build of PyTorch are installed.
# setup.py compiles only what is missing or out of date.
kernels: $(READY)
	@$(BIN)/python setup.py --quiet build_kernels

kernels-if-possible: $(READY)
	@$(MAKE) --no-print-directory kernels || echo "The kernels could not be built; plain PyTorch takes their place (slower)."

# nvcc compiles without a GPU, so every machine with nvcc checks that the CUDA sources compile
check-nvcc: $(READY)
	@if command -v nvcc > /dev/null || test -x /usr/local/cuda/bin/nvcc; then \
	  PUFFIN_CUDA=1 $(BIN)/python setup.py --quiet build_kernels; else echo "nvcc not found: the CUDA sources are not compiled"; fi

# Everything that can be said about the CUDA kernels without a GPU (about half an hour)
check-cuda: check-nvcc check-emulated check-emulated-sanitizers mutants

# Run the CUDA kernels on a CPU, thread by thread, with the tests of their CPU twins. Not taken: tests that are about speed
# or CPU threads, operations that have no CUDA kernel, and values that CUDA does not check (it would wait).
EMULATED = not large and not threads and not quadratic and not refuse and not errors and not example and not library \
  and not signed_power
check-emulated: emulator
	$(BIN)/python -m pytest tests/emulate
	PUFFIN_KERNELS=emulated $(BIN)/python -m pytest tests/ops tests/bench/test_traffic.py -k "$(EMULATED)"

# Tests of geometry that take minutes in the emulator
SLOW_GEOMETRY = test_geometry and (outliers or tracks or collinear or far or symmetry or eigenvalues or agrees or order)

# A part of about two minutes, for `make test`
check-emulated-part: emulator
	PUFFIN_KERNELS=emulated $(BIN)/python -m pytest tests/ops \
	  -k "$(EMULATED) and not opcheck and not compile and not dtype1 and not float64 and not knn_equals \
  and not ($(SLOW_GEOMETRY))"

emulator: $(READY)
	PUFFIN_EMULATE=1 $(BIN)/python setup.py --quiet build_kernels

# The same under AddressSanitizer and UBSan, which check all memory, but not races. The slowest tests are left out.
check-emulated-sanitizers: $(READY)
	PUFFIN_EMULATE=1 PUFFIN_SANITIZE=1 $(BIN)/python setup.py --quiet build_kernels
	LD_PRELOAD="$(ASAN)" ASAN_OPTIONS=detect_leaks=0 PUFFIN_KERNELS=emulated_asan $(BIN)/python -m pytest tests/ops \
	  -k "$(EMULATED) and not (knn_equals and (dtype1 or tracks or outliers)) and not ($(SLOW_GEOMETRY))"

# Break the CUDA kernels on purpose, in a copy, and see that a test fails for each (about 20 minutes)
mutants: $(READY)
	$(BIN)/python -m tests.mutants --out docs/kernel_mutants.md

ASAN = $$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)

# Run the tests of the kernels under AddressSanitizer and UBSan, then build the usual library again
check-sanitizers: $(READY)
	PUFFIN_SANITIZE=1 PUFFIN_CUDA=0 $(BIN)/python setup.py build_kernels
	LD_PRELOAD="$(ASAN)" ASAN_OPTIONS=detect_leaks=0 \
	  PUFFIN_REQUIRE_KERNELS=1 $(BIN)/python -m pytest tests/ops \
	  -k "equals_oracle or golden or padded or threads or tree or per_event or equals_separate or refuse or half_tables \
  or pair_messages or embedding or equivariant_nodes or attention or test_geometry"; \
	  status=$$?; PUFFIN_CUDA=0 $(BIN)/python setup.py build_kernels; exit $$status

# 1000 cases of odd flags, data, checkpoints and presets; `make test` runs the first 60 of them
fuzz: kernels
	PYTHONPATH=src:.:data:tools $(BIN)/python -m tests.fuzz.campaign --cases 1000

# Kill 200 trainings at random moments and fill 20 disks (about an hour)
crash: kernels
	$(BIN)/python bench/crash.py --kills 200 --disks 20

install: $(READY)

# PyTorch goes first and alone: otherwise pip may install a second, much larger build of it.
# The package is installed in editable mode, so that `python -m puffin.ops` works in every folder.
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

# The tools of `make check`, with the versions in pyproject.toml
$(CHECKS): $(READY)
	$(BIN)/pip install --quiet --no-build-isolation -e '.[check]'
	touch $@

# Pythia 8 and FastJet, which data/make_jets.py needs and training does not
generate: $(READY)
	$(BIN)/pip install --quiet --no-build-isolation -e '.[generate]'

bench: $(READY)
	$(BIN)/pip install --quiet --no-build-isolation -e '.[bench]'
	$(BIN)/python bench/pelican.py

clean:
	rm -rf build src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
