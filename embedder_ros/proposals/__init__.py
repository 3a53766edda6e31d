# SPDX-License-Identifier: Apache-2.0
"""Where boxes come from that no model brings itself."""
