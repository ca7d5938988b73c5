# Settings: ROS=kilted, VENV, PYTHON, TORCH_INDEX_URL (docs/install.md); ARGS for demo and test.
.PHONY: demo test build lint bench

build: ; @scripts/build.sh
demo: build ; @scripts/run.sh openvla-ros demo $(ARGS)
test: build ; @scripts/run.sh pytest $(ARGS)
lint: build ; @scripts/lint.sh
bench: build ; @scripts/bench.sh
