# SPDX-License-Identifier: Apache-2.0
"""The ROS face: the only room that imports rclpy."""
