# SPDX-License-Identifier: Apache-2.0
"""What one ObjectEmbeddings message costs, from an Observation in one process to an Observation in another.

Run `python benchmarks/message_cost.py`. It measures each step alone (build, serialise, deserialise, read), then the way
over DDS with the shipped transport profile: the time of `publish` itself, and the time from before the message is built
to after it was read on the other side. Two processes share the machine, so their cores and its load matter; both are in
the result. Not measured: two machines.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from report import ROOT, percentiles, write_result

from embedder_ros.types import Observation, unit_rows

PROFILE = ROOT / 'config' / 'fastdds.xml'
LIMIT = 60.0  # seconds after which a process gives up on the other


def observation(objects: int, dim: int) -> Observation:
    """Random objects in a 1280x720 frame."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 600, (objects, 2))
    return Observation(
        stamp=0,
        camera='front',
        frame_id='front_optical_frame',
        width=1280,
        height=720,
        boxes=np.hstack([low, low + 100]).astype(np.float32),
        objectness=rng.uniform(size=objects).astype(np.float32),
        iou=rng.uniform(size=objects).astype(np.float32),
        embeddings=unit_rows(rng.normal(size=(objects, dim))),
        frame_embeddings=unit_rows(rng.normal(size=(2, dim))),
        model_id='random-00000000',
        positions=rng.normal(size=(objects, 3)).astype(np.float32),
    )


def timed(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """p50 and p95 of a step in microseconds, after three unmeasured rounds."""
    durations = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        step()
        durations.append(time.perf_counter() - start)
    return percentiles(durations[3:])


def local_steps(shown: Observation, repeats: int) -> dict[str, Any]:
    """Each step alone, in this process."""
    from rclpy.serialization import deserialize_message, serialize_message

    from embedder_ros.msg import ObjectEmbeddings
    from embedder_ros.nodes.messages import observation_from_msg, observation_to_msg

    msg = observation_to_msg(shown)
    data = serialize_message(msg)
    return {
        'bytes': len(data),
        'build_us': timed(lambda: observation_to_msg(shown), repeats),
        'serialise_us': timed(lambda: serialize_message(msg), repeats),
        'deserialise_us': timed(lambda: deserialize_message(data, ObjectEmbeddings), repeats),
        'read_us': timed(lambda: observation_from_msg(msg), repeats),
    }


def publish(shown: Observation, repeats: int, period: float) -> dict[str, Any]:
    """Send to the other process; the stamp is the machine's monotonic clock before the message is built."""
    import rclpy

    from embedder_ros.nodes import wire
    from embedder_ros.nodes.messages import observation_to_msg

    rclpy.init()
    publisher = rclpy.create_node('sender').create_publisher(*wire.OBJECTS.args)
    deadline = time.monotonic() + LIMIT
    while not publisher.get_subscription_count() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # the other side needs a moment more to know of us
    durations = []
    for _ in range(repeats):
        msg = observation_to_msg(replace(shown, stamp=time.monotonic_ns()))
        start = time.perf_counter()
        publisher.publish(msg)
        durations.append(time.perf_counter() - start)
        time.sleep(period)
    time.sleep(1.0)
    rclpy.shutdown()
    return {'sent': repeats, 'publish_us': percentiles(durations)}


def subscribe() -> None:
    """The other process: prints the latencies in seconds, until the sender is gone."""
    import rclpy

    from embedder_ros.nodes import wire
    from embedder_ros.nodes.messages import observation_from_msg

    latencies: list[float] = []

    def on_objects(msg: Any) -> None:
        stamp = observation_from_msg(msg).stamp
        latencies.append((time.monotonic_ns() - stamp) / 1e9)

    rclpy.init()
    node = rclpy.create_node('receiver')
    topic = wire.OBJECTS
    node.create_subscription(topic.type, topic.name, on_objects, topic.qos)
    deadline = time.monotonic() + LIMIT
    while node.count_publishers(topic.name) or (not latencies and time.monotonic() < deadline):
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps(latencies))


def over_dds(shown: Observation, repeats: int, period: float) -> dict[str, Any]:
    """The way between two processes."""
    receiver = subprocess.Popen([sys.executable, __file__, '--receive'], stdout=subprocess.PIPE, text=True)
    sent = publish(shown, repeats, period)
    output, _ = receiver.communicate(timeout=LIMIT)
    latencies = json.loads(output)
    return {**sent, 'received': len(latencies), 'build_to_read_us': percentiles(latencies)}


def table(measurements: dict[str, Any]) -> str:
    """The times as text."""
    lines = [f'{"step":<20}{"p50 us":>10}{"p95 us":>10}']
    times = {k: v for k, v in measurements.items() if k.endswith('_us')}
    lines += [f'{k.removesuffix("_us"):<20}{v["p50"]:>10}{v["p95"]:>10}' for k, v in times.items()]
    return '\n'.join([*lines, *(f'{k}: {v}' for k, v in measurements.items() if k not in times)])


def main() -> None:
    """Measure, print and write benchmarks/results/message_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--objects', type=int, default=100)
    parser.add_argument('--dim', type=int, default=1024)
    parser.add_argument('--repeats', type=int, default=300)
    parser.add_argument('--period', type=float, default=1 / 30, help='seconds between two messages')
    parser.add_argument('--receive', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = str(PROFILE)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    if args.receive:
        return subscribe()
    os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    shown = observation(args.objects, args.dim)
    sizes = {'objects': args.objects, 'dim': args.dim, 'period_s': round(args.period, 4)}
    measurements = sizes | local_steps(shown, args.repeats) | over_dds(shown, args.repeats, args.period)
    print(table(measurements))
    path = write_result('message_cost', measurements, [PROFILE, Path(__file__)])
    print(f'written: {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
