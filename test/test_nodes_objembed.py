# SPDX-License-Identifier: Apache-2.0
"""Live nodes with an ObjEmbed checkpoint: `model:=/path` is all that changes for those who ask."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
import tinyobjembed
from livetest import Robot, picture, robot

from embedder_ros.msg import ObjectEmbeddings
from embedder_ros.srv import EmbedText

START_SECONDS = 120.0  # torch and transformers are slow to import on a busy machine
BOX = (40, 60, 140, 160)


def ready(it: Robot, says: str) -> None:
    process, deadline = it.processes[0], time.monotonic() + START_SECONDS
    while says not in process.output and process.popen.poll() is None and time.monotonic() < deadline:
        it.settle()
    assert says in process.output, process.output


def test_nodes_run_a_checkpoint(tmp_path: Path) -> None:
    folder = tinyobjembed.write(tmp_path / 'ObjEmbed-tiny')
    with robot('/objembed', tmp_path) as it:
        it.start(
            'perception', blobs=False, model=str(folder), proposals='nano', prompt='det', device='cpu', threads=1,
            min_tokens=20, max_tokens=60, max_objects=8,
        )  # fmt: skip
        ready(it, 'is ready')
        assert 's per frame' in it.processes[0].output, 'nothing was said about a CPU'
        objects = it.listen(ObjectEmbeddings, 'objects')
        with it.camera('image', picture(red=BOX)):
            it.until(lambda: any(len(m.objectness) for m in objects), 'objects')
            answer = it.find('the red box')
        assert answer.success and answer.candidates, answer.message
        seen = next(m for m in objects if len(m.objectness))
        assert seen.model_id.startswith('objembed-') and seen.model_id.endswith('-det') and seen.dim == 64
        assert 0 < len(seen.objectness) <= 8
        rows = np.array(seen.embeddings).reshape(-1, 64)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
        texts = it.call(EmbedText, 'embed_text', EmbedText.Request(texts=['a mug', 'a <object><local_text> mug']))
        assert texts.success and texts.model_id == seen.model_id and len(texts.embeddings) == 128
        assert not it.call(EmbedText, 'embed_text', EmbedText.Request(texts=['x' * 1001])).success


def test_a_checkpoint_without_a_source_of_boxes_is_told(tmp_path: Path) -> None:
    folder = tinyobjembed.write(tmp_path / 'ObjEmbed-tiny')
    with robot('/boxless', tmp_path) as it:
        it.start('embedder', blobs=False, model=str(folder))
        ready(it, "set parameter 'proposals'")
