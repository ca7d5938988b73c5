#!/usr/bin/env bash
# Run every benchmark, one after the other: they would disturb each other's timing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for benchmark in benchmarks/[a-z]*.py; do
  printf '== %s\n' "$benchmark"
  scripts/run.sh python "$benchmark"
done
