# SPDX-License-Identifier: Apache-2.0
"""A question against what is in view: found, ambiguous or not found; and following what was found."""
