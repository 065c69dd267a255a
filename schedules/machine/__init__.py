"""Machines as data, and what a kernel is predicted to take on one."""
