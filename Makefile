# make test   everything: lint, types, tests, and the guests that the tests look into
# make demo   a guest is broken into, its memory taken with memdump, and asked what happened
# make agent  memdump-agent.pyz: the acquiring side in one file, for any Python 3.8 and nothing else
# All first install what is missing (scripts/prepare); the second time they need no network.

BIN = .venv/bin

.PHONY: prepare lint guests test demo agent bench

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

# The standard library is all it takes, whoever makes it.
agent:
	@rm -f memdump-agent.pyz
	@PYTHONPATH=src python3 -m memdump.machine.bundle memdump-agent.pyz

# Beside the peers; the guests it needs take 20 GB of disk and some minutes.
bench: prepare
	@$(BIN)/python -m bench
