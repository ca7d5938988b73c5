# Settings: ROS=kilted, VENV, PYTHON, TORCH_INDEX_URL (docs/install.md); ARGS for demo and test.
.PHONY: demo test nightly build lint bench

build: ; @scripts/build.sh
demo: build ; @scripts/run.sh openvla-ros demo $(ARGS)
test: build ; @scripts/run.sh pytest $(ARGS)
nightly: build ; @SAFETY_EVENTS=1000000 HYPOTHESIS_PROFILE=nightly scripts/run.sh pytest --timeout 0 -s test/control/test_safety_properties.py test/control/test_safety_arm_properties.py test/control/test_judged_path.py $(ARGS)
lint: build ; @scripts/lint.sh
bench: build ; @scripts/bench.sh
