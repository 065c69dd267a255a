"""Convolutions in TVM's tensor expressions, and what their schedules share."""
