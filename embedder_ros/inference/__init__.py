# SPDX-License-Identifier: Apache-2.0
"""Run a network: one Session over the runtimes."""
