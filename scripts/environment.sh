# SPDX-License-Identifier: Apache-2.0
# Sourced by demo.sh and test.sh: makes .venv with everything at pinned versions, builds the interfaces, sets what ROS needs.
# Quick the second time: a stamp in .venv tells what it was made from.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

stop() { printf 'embedder_ros: %s\n' "$*" >&2; exit 1; }
say() { printf '==> %s\n' "$*" >&2; }

# Whatever is sourced or active outside must not leak in: the wheels bring their own ROS.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH \
  RMW_IMPLEMENTATION ROS_DISTRO ROS_DOMAIN_ID ROS_DISCOVERY_SERVER ROS_LOCALHOST_ONLY _ROS_WHEELS_BOOTSTRAP_COMPLETE
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export FASTDDS_DEFAULT_PROFILES_FILE="$PWD/config/fastdds.xml"
export ORT_DISABLE_TELEMETRY=1 # onnxruntime's wheel reports home unless told
export ROS_LOG_DIR="${TMPDIR:-/tmp}/embedder_ros-logs-$(id -u)"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' && { echo "$candidate"; return; }
  done
  stop 'Python 3.10 to 3.13 is needed: apt install python3, or set PYTHON=/path/to/python3'
}

check_machine() {
  local missing=()
  [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
    stop "ROS wheels exist for Linux on x86-64 only, this is $(uname -s) on $(uname -m): install ROS and use colcon (README)"
  command -v g++ >/dev/null || missing+=(g++)
  "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    missing+=(python3-dev)
  [ ${#missing[@]} -eq 0 ] || stop "missing: ${missing[*]}. Install with: sudo apt install ${missing[*]}"
}

# Where .venv is and what made it (a venv can neither be moved nor change its Python), then what is in it.
home() { echo "$PWD $("$python" --version)"; }
wanted() {
  home
  cat scripts/requirements.txt pyproject.toml setup.py CMakeLists.txt package.xml msg/* srv/* action/* | sha256sum
}

# pip's many lines as one that counts; all of them when something goes wrong.
pip() {
  local log=.venv/pip.log total
  total=$(grep -oh '^[A-Za-z][^=]*' scripts/requirements.txt scripts/extras.txt | sort -u | wc -l)
  .venv/bin/python -m pip --disable-pip-version-check install "$@" 2>&1 | tee $log |
    awk -v total="$total" '/^Collecting|^Requirement already/ { n++; if (n % 10 == 0) printf "    %d of about %d\n", n, total }
      /^Installing collected/ { print "    installing" } { fflush() }' >&2 || { tail -n 40 $log >&2; return 1; }
}

make_venv() {
  local stamp=.venv/made-from clear=--clear
  [ "$(cat $stamp 2>/dev/null)" = "$(wanted)" ] && [ -d embedder_ros/msg ] && return
  check_machine
  [ "$(head -n 1 $stamp 2>/dev/null)" = "$(home)" ] && clear= # complete, only outdated
  rm -f $stamp
  say 'Python packages into .venv (a few hundred MB the first time)'
  "$python" -m venv $clear .venv || stop "$python -m venv failed. Install with: sudo apt install python3-venv"
  pip -r scripts/requirements.txt || stop 'pip could not install scripts/requirements.txt; is the package index reachable?'
  say 'Interfaces from msg/, srv/ and action/ (about a minute)'
  pip --no-build-isolation --no-deps -e . || stop 'building the interfaces failed, see above'
  wanted > $stamp
}

# What only the tests need; a second stamp, so that the demo stays light.
make_extras() {
  local stamp=.venv/extras-from
  cmp -s $stamp scripts/extras.txt && return
  say 'torch, transformers and more for the tests into .venv (some hundred MB)'
  pip -r scripts/requirements.txt -r scripts/extras.txt || stop 'pip could not install scripts/extras.txt; is the package index reachable?'
  cp scripts/extras.txt $stamp
}

python=$(find_python) || exit 1
set -o pipefail
make_venv
export PATH="$PWD/.venv/bin:$PATH"
