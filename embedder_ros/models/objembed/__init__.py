# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed (MODELS.md section 1): a Qwen3-VL that embeds every proposed box of a frame in one forward pass."""
