#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every quality gate; arguments go to pytest. All gates run even when one fails.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
make_extras
failed=()
gate() {
  local name=$1
  shift
  say "$*"
  "$@" || failed+=("$name")
}
gate format ruff format --check .
gate lint ruff check .
gate types mypy
gate tests pytest "$@"
[ ${#failed[@]} -eq 0 ] || stop "failed: ${failed[*]}"
say 'all gates passed: format, lint, types, tests'
