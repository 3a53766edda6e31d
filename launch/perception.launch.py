# SPDX-License-Identifier: Apache-2.0
"""Start perception (embedder and grounder in one process) on a robot.

ros2 launch embedder_ros perception.launch.py cameras:=front,wrist \
    image_topics:=/front/image_raw,/wrist/image_raw/compressed

An argument that is left empty is taken from the params file, which holds every default.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from embedder_ros.share import profile_variable

SHARE = get_package_share_directory('embedder_ros')

# name: sentence. Lists are separated by commas.
LISTS = {
    'cameras': 'names of the cameras',
    'image_topics': "one image topic per camera; '.../compressed' is sensor_msgs/CompressedImage",
    'depth_topics': 'one registered depth topic per camera',
}
TEXTS = {
    'model': "registered model name ('nano') or model folder",
    'device': 'auto, cpu or cuda',
    'precision': 'auto, fp32, bf16 or fp16',
    'memory': 'file or server where objects are remembered',
    'map_id': 'name of the place; maps are remembered apart',
    'map_frame': "frame of the poses that tf gives, 'map'",
}


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Build the node once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name in [*LISTS, *TEXTS]}
    parameters = {name: value.split(',') if name in LISTS else value for name, value in given.items() if value}
    parameters['use_sim_time'] = LaunchConfiguration('use_sim_time').perform(context).lower() in ('true', '1')
    node = Node(
        package='embedder_ros',
        executable='perception',  # no name=: the process holds two nodes, `embedder` and `grounder`
        namespace=LaunchConfiguration('namespace').perform(context),
        parameters=[LaunchConfiguration('params_file').perform(context), parameters],
        ros_arguments=['--log-level', LaunchConfiguration('log_level').perform(context)],
        output='screen',
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start perception."""
    arguments = [
        DeclareLaunchArgument(name, default_value='', description=sentence + '; empty: as in params_file')
        for name, sentence in {**LISTS, **TEXTS}.items()
    ]
    arguments += [
        DeclareLaunchArgument(
            'params_file',
            default_value=os.path.join(SHARE, 'config', 'perception.yaml'),
            description='YAML with the parameters of embedder and grounder',
        ),
        DeclareLaunchArgument('namespace', default_value='', description='namespace of both nodes'),
        DeclareLaunchArgument('use_sim_time', default_value='false', description='take the time from /clock'),
        DeclareLaunchArgument('log_level', default_value='info', description='debug, info, warn or error'),
    ]
    # Without a larger shared-memory segment Fast DDS loses 720p images; a profile that is already set is kept.
    variable = profile_variable()
    profile = os.environ.get(variable, os.path.join(SHARE, 'config', 'fastdds.xml'))
    return LaunchDescription([*arguments, SetEnvironmentVariable(variable, profile), OpaqueFunction(function=start)])
