#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every quality gate; arguments go to pytest. All gates run even when one fails.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
failed=()
gate() { say "$*"; "$@" || failed+=("$1 $2"); }
gate ruff format --check .
gate ruff check .
gate mypy
gate pytest "$@"
[ ${#failed[@]} -eq 0 ] || stop "failed: $(printf '%s; ' "${failed[@]}")"
