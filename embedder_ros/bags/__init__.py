# SPDX-License-Identifier: Apache-2.0
"""Bags, videos and photos: read, write, replay."""
