# SPDX-License-Identifier: Apache-2.0
"""Training of ObjEmbed (MODELS.md 1.10): losses, labels, data, samplers, parameter groups, and fine-tuning by LoRA."""
