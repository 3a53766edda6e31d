# SPDX-License-Identifier: Apache-2.0
"""Camera images between two real processes over Fast DDS, with the transport profile that the package ships.

Only counts are asserted: Fast DDS' default shared-memory segment loses nearly every best-effort 720p image, the profile
keeps them. The publisher waits after each frame instead of keeping to a clock, so that a busy machine slows it down and
never makes it send a burst.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROFILE = Path(__file__).parents[1] / 'config' / 'fastdds.xml'
FRAMES = 90
PERIOD = 1 / 30
HEIGHT, WIDTH = 720, 1280
LIMIT = 60.0  # seconds after which a process gives up on the other


def publish(qos_name: str) -> None:
    """Process one: 90 frames that carry their number in frame_id and in every pixel."""
    import numpy as np
    import rclpy
    from rclpy.qos import QoSProfile, qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from embedder_ros.nodes.images import rgb_to_image

    qos = {'best effort': qos_profile_sensor_data, 'reliable': QoSProfile(depth=10)}[qos_name]
    rclpy.init()
    publisher = rclpy.create_node('camera').create_publisher(Image, 'image', qos)
    deadline = time.monotonic() + LIMIT
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # the other side needs a moment more to know of us
    for number in range(FRAMES):
        pixels = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        publisher.publish(rgb_to_image(pixels, Header(frame_id=str(number))))
        time.sleep(PERIOD)
    time.sleep(1.0)


def subscribe() -> None:
    """Process two: prints the numbers of the frames that came whole, until the camera is gone."""
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image

    from embedder_ros.images import image_to_rgb

    received = []

    def on_image(msg: Image) -> None:
        pixels = image_to_rgb(msg)
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        assert (pixels == int(msg.header.frame_id)).all()
        received.append(int(msg.header.frame_id))

    rclpy.init()
    node = rclpy.create_node('embedder')
    node.create_subscription(Image, 'image', on_image, qos_profile_sensor_data)
    deadline, seen = time.monotonic() + LIMIT, False
    while time.monotonic() < deadline and not (seen and not node.count_publishers('image')):
        seen = seen or node.count_publishers('image') > 0
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps(received))


@pytest.mark.parametrize('qos_name', ['best effort', 'reliable'])
def test_720p_images_arrive_with_the_shipped_profile(qos_name: str) -> None:
    """Both kinds of camera are heard by a sensor-data subscription, and hardly a frame is lost."""
    environment = {
        **os.environ,
        'FASTDDS_DEFAULT_PROFILES_FILE': str(PROFILE),
        'ROS_DOMAIN_ID': str(1 + os.getpid() % 100),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    me = [sys.executable, __file__]
    with subprocess.Popen([*me, 'publish', qos_name], env=environment) as camera:
        try:
            done = subprocess.run(
                [*me, 'subscribe'], env=environment, stdout=subprocess.PIPE, timeout=2 * LIMIT, check=True
            )
        finally:
            camera.kill()
    received = json.loads(done.stdout)
    lost = sorted(set(range(FRAMES)) - set(received))
    assert received == sorted(set(received)), 'frames came twice or out of order'
    assert len(received) >= 80, f'lost frames {lost}'


if __name__ == '__main__':
    {'publish': publish, 'subscribe': subscribe}[sys.argv[1]](*sys.argv[2:])
