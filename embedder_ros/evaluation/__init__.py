# SPDX-License-Identifier: Apache-2.0
"""How well it works: metrics and readers of labelled data."""
