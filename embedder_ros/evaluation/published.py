# SPDX-License-Identifier: Apache-2.0
"""What ObjEmbed's paper reports (MODELS.md 1.11), to print beside one's own numbers."""

from __future__ import annotations

COCO = {'ObjEmbed-2B': 52.9, 'ObjEmbed-4B': 53.0, 'WeDetect-B': 52.1, 'Grounding-DINO-T': 47.9}  # AP
# AP from proposals, and from ground truth mixed in, of ObjEmbed-4B; AR@100 of the proposals before.
COCO_PROPOSALS = {'AR 66.7': 53.0, 'AR 100': 65.2}
LVIS_PROPOSALS = {'AR 50.8': 49.0, 'AR 100': 66.6}  # fixed AP, v1 val
LVIS = {'ObjEmbed-4B': 49.0}  # fixed AP, v1 val
REFCOCO = {'ObjEmbed-2B': 87.6, 'ObjEmbed-4B': 89.5, 'Grounding-DINO-L': 86.6}  # accuracy at IoU 0.5, mean of 8 sets
REFCOCO_VAL = {'ObjEmbed-2B': 91.7, 'ObjEmbed-4B': 92.5}
# R@1, R@1, mAP@50, mAP@50
RETRIEVAL = {
    'ObjEmbed-2B': {'SORCE-1K': 67.3, 'REIRCOCO': 37.5, 'ILIAS T2I': 76.5, 'ILIAS I2I': 84.0},
    'ObjEmbed-4B': {'SORCE-1K': 71.7, 'REIRCOCO': 39.3, 'ILIAS T2I': 77.6, 'ILIAS I2I': 85.3},
}
# R@1 image to text / text to image
CAPTIONS = {
    'ObjEmbed-2B': {'ShareGPT4V': (97.1, 97.3), 'DCI': (74.5, 74.6), 'COCO': (75.2, 51.0), 'Flickr30K': (94.2, 80.0)},
    'ObjEmbed-4B': {'ShareGPT4V': (97.5, 97.7), 'DCI': (77.2, 76.9), 'COCO': (75.7, 52.2), 'Flickr30K': (94.2, 80.4)},
}
NOTE = (
    "the paper's numbers are of released ObjEmbed checkpoints on the whole sets, with 100 WeDetect-Uni proposals "
    '(--max-objects 100)'
)
