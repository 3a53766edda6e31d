# SPDX-License-Identifier: Apache-2.0
"""WeDetect-Uni, base and large: class-agnostic boxes from learned objectness prompts (MODELS.md section 2)."""
