# Two commands:  make quickstart   train, evaluate and draw on the sample jets
#                make test         the whole test suite
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.installed
RUN12   = data/sample_data/run12

.PHONY: quickstart test install generate bench clean

quickstart: $(READY)
	$(BIN)/python train_pelican_classifier.py --yaml config/quickstart.yaml --datadir $(RUN12) --prefix quickstart
	@echo
	@echo "Metrics of the best epoch on the test jets (log/quickstart.Best.metrics.csv):"
	@$(BIN)/python tools/show_metrics.py log/quickstart.Best.metrics.csv
	@echo
	@echo "log          log/quickstart.log"
	@echo "picture      log/quickstart.png   (loss and ROC curves)"
	@echo "predictions  predict/quickstart.best.test.pt   predict/quickstart.best.test_ROC.csv"
	@echo "weights      model/quickstart_best.pt"

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

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
