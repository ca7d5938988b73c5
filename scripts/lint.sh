#!/usr/bin/env bash
# Every check that reads the code without running it. All of them run; the last line of a failing one names it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
run=scripts/run.sh
failed=()

check() {
  printf '== %s\n' "$*"
  "$run" "$@" || failed+=("$*")
}

check ruff check
check ruff format --check
check mypy
check shellcheck -x -P SCRIPTDIR scripts/*.sh .ci/run

[[ ${#failed[@]} -eq 0 ]] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
