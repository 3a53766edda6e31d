# SPDX-License-Identifier: Apache-2.0
"""What the node adds to the bare pipeline: image published until `objects` received, against Pipeline.observe alone.

Run `python benchmarks/node_latency.py`. The real embedder node runs in its own process; this process is the camera and
the listener, sends a raw 640x480 frame, waits for its objects, and between the frames runs nothing. Rounds of node and
of bare pipeline alternate, so that both see the same machine. Goal: at most 1.05 times the pipeline plus 1 ms.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import rclpy
from frame_stages import PHOTOS, photo
from report import ROOT, percentiles, write_result
from sensor_msgs.msg import Image

from embedder_ros.models.registry import load_model
from embedder_ros.msg import ObjectEmbeddings
from embedder_ros.nodes import messages, wire
from embedder_ros.nodes.images import rgb_to_image
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Frame

ROUNDS = 6
LIMIT = 60.0  # seconds to wait for the node


class Camera:
    """Publishes a frame and waits for what the node says about it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._node = rclpy.create_node('camera')
        self._publisher = self._node.create_publisher(Image, 'image', wire.CAMERA_QOS)
        self._node.create_subscription(ObjectEmbeddings, 'objects', self._on_objects, wire.OUTPUT_QOS)
        self._pixels = pixels
        self._answered = 0

    def _on_objects(self, msg: ObjectEmbeddings) -> None:
        self._answered = messages.stamp_to_ns(msg.header.stamp)

    def round_trip(self, limit: float = LIMIT) -> float:
        """Seconds from publish to objects; sent again every second until the node is up."""
        deadline = time.perf_counter() + limit
        while time.perf_counter() < deadline:
            stamp = time.time_ns()
            message = rgb_to_image(self._pixels, messages.header(stamp, 'optical'))
            begin = time.perf_counter()
            self._publisher.publish(message)
            while self._answered != stamp and time.perf_counter() - begin < 5:
                rclpy.spin_once(self._node, timeout_sec=5)
            if self._answered == stamp:
                return time.perf_counter() - begin
        sys.exit('the embedder does not answer')


def bare(pipeline: Pipeline, pixels: np.ndarray) -> float:
    """Seconds of the pipeline alone."""
    begin = time.perf_counter()
    pipeline.observe([Frame(pixels, 1, 'camera')])
    return time.perf_counter() - begin


def measure(frames: int, threads: int) -> dict[str, Any]:
    """Alternate rounds of both."""
    pixels = photo(PHOTOS[0], (640, 480))
    camera = Camera(pixels)
    model = load_model('nano', threads=threads)
    pipeline = Pipeline(model.embedder, model.proposer)
    alone, through_node = [], []
    bare(pipeline, pixels), camera.round_trip(), camera.round_trip(), bare(pipeline, pixels)
    for _ in range(ROUNDS):
        alone += [bare(pipeline, pixels) for _ in range(frames)]
        through_node += [camera.round_trip() for _ in range(frames)]
    result = {'pipeline_ms': percentiles(alone, 1e3), 'node_ms': percentiles(through_node, 1e3)}
    a, b = result['pipeline_ms']['p50'], result['node_ms']['p50']
    result |= {'node_over_pipeline': b / a, 'node_minus_pipeline_ms': b - a, 'goal_met': bool(b <= 1.05 * a + 1)}
    return {'model': model.embedder.info.model_id, 'threads': threads, 'frames': ROUNDS * frames, **result}


def main() -> None:
    """Start the node, measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--frames', type=int, default=10, help='frames a round')
    parser.add_argument('--threads', type=int, default=2)
    options = parser.parse_args()
    rclpy.init()
    command = [sys.executable, '-m', 'embedder_ros.nodes.embedder', '--ros-args', '-p', f'threads:={options.threads}']
    node = subprocess.Popen(command, start_new_session=True)
    try:
        measured = measure(options.frames, options.threads)
    finally:
        node.send_signal(signal.SIGINT)
        node.wait(20)
        rclpy.try_shutdown()
    print(measured)
    print('written to', write_result('node_latency', measured, [PHOTOS[0]]))


if __name__ == '__main__':
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(ROOT / 'config' / 'fastdds.xml'))
    main()
