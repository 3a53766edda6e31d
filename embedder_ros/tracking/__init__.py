# SPDX-License-Identifier: Apache-2.0
"""Observations to tracks: one camera, seconds."""
