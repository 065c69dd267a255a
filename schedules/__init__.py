"""Convolutions written in tensor expressions, and the families of schedules that compute them.

Nothing is imported here: `schedules.machine.hardware` and `schedules.conv.workload` are plain
Python, which a machine with TVM's runtime alone can import; the other files need its compiler.
"""
