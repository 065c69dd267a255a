"""Convolutions in TVM's tensor expressions, and the code that their schedules share."""
