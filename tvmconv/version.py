"""Versions: of this package, and of the TVM that it works with."""

#: The build of the wheel reads it here.
__version__ = "0.1.0"

#: The only pair in which `Schedule.tensorize` was seen to work; with apache-tvm-ffi 0.1.15 the
#: first call of it ends the process with a segmentation fault.
TVM_PAIR = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
