# Two commands:  make quickstart   train, evaluate and draw on the sample jets
#                make test         the whole test suite
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.installed
RUN12   = data/sample_data/run12

.PHONY: quickstart test install kernels check-cuda check-sanitizers generate bench clean

quickstart: $(READY)
	@$(MAKE) --no-print-directory kernels || echo "The kernels could not be built; plain PyTorch takes their place (slower)."
	$(BIN)/python train_pelican_classifier.py --yaml config/quickstart.yaml --datadir $(RUN12) --prefix quickstart
	@echo
	@echo "Metrics of the best epoch on the test jets (log/quickstart.Best.metrics.csv):"
	@$(BIN)/python tools/show_metrics.py log/quickstart.Best.metrics.csv
	@echo
	@echo "log          log/quickstart.log"
	@echo "picture      log/quickstart.png   (loss and ROC curves)"
	@echo "predictions  predict/quickstart.best.test.pt   predict/quickstart.best.test_ROC.csv"
	@echo "weights      model/quickstart_best.pt"

test: kernels check-cuda
	PUFFIN_REQUIRE_KERNELS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

# the kernel library, for CUDA too where nvcc and a CUDA PyTorch are; setup.py compiles only what is missing or stale
kernels: $(READY)
	@$(BIN)/python setup.py --quiet build_kernels

# nvcc needs no GPU to compile: the CUDA sources cannot rot unseen
check-cuda: $(READY)
	@if command -v nvcc > /dev/null || test -x /usr/local/cuda/bin/nvcc; then \
	  PUFFIN_CUDA=1 $(BIN)/python setup.py --quiet build_kernels; else echo "no nvcc here: CUDA sources not compiled"; fi

# the tests of the kernels under AddressSanitizer and UBSan; the usual library is built again afterwards
check-sanitizers: $(READY)
	PUFFIN_SANITIZE=1 PUFFIN_CUDA=0 $(BIN)/python setup.py build_kernels
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	  PUFFIN_REQUIRE_KERNELS=1 $(BIN)/python -m pytest tests/ops \
	  -k "equals_oracle or golden or padded or threads or tree or per_event or equals_separate or refuse"; \
	  status=$$?; PUFFIN_CUDA=0 $(BIN)/python setup.py build_kernels; exit $$status

install: $(READY)

# PyTorch first and alone: any other order may bring a second, much larger build of it
$(READY): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

# the generator of jets (Pythia 8, FastJet); not needed to train
generate: $(READY)
	$(BIN)/pip install --quiet --no-build-isolation -e '.[generate]'

bench: $(READY)
	$(BIN)/pip install --quiet --no-build-isolation -e '.[bench]'
	$(BIN)/python bench/pelican.py

clean:
	rm -rf build *.egg-info .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
