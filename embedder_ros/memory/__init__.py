# SPDX-License-Identifier: Apache-2.0
"""Tracks to objects: any camera, any time, across restarts. `memory.Memory` is the door."""
