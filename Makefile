# make test   everything: lint, types, tests, and the guests that the tests look into
# make demo   a guest is broken into, its memory taken with memdump, and asked what happened
# Both first install what is missing (scripts/prepare); the second time they need no network.

BIN = .venv/bin

.PHONY: prepare lint guests test demo bench

prepare:
	@scripts/prepare

lint: prepare
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Without a lab its tests are skipped with the reason, or fail where CI=true: that is theirs to say.
guests: prepare
	-@$(BIN)/python -m tests.lab

test: lint guests
	$(BIN)/pytest --numprocesses auto --dist loadgroup $(PYTEST_ARGS)

demo: prepare
	@$(BIN)/python -m tests.lab.demo

# Beside the peers; the guests it needs take 20 GB of disk and some minutes.
bench: prepare
	@$(BIN)/python -m bench
