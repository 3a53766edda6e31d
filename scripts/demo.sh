#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job on the sample bag, or with --input PATH --find "TEXT" on a photo, video or bag of your own.
set -euo pipefail
caller=$PWD
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -m embedder_ros.nodes.demo --relative-to "$caller" "$@"
