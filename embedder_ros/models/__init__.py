# SPDX-License-Identifier: Apache-2.0
"""One folder per network, and the registry that loads them."""
