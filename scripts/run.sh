#!/usr/bin/env bash
# run.sh COMMAND...: run a command of the environment that build.sh made.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ $system_ros ]]; then
  source_setup "$VENV/setup.bash"
else
  unset PYTHONPATH # would shadow the installed package, and with it the generated messages
fi
PATH=$VENV/bin:$PATH exec "$@"
