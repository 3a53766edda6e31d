# SPDX-License-Identifier: Apache-2.0
"""Rendered scenes whose every box, name and colour is known; nothing in them is taken from anyone's mesh or texture."""
