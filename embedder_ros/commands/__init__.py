# SPDX-License-Identifier: Apache-2.0
"""Subcommands of `embedder-ros`, one module each with `add(commands)`; cli.py lists them."""
