"""The Linux calls that Python's standard library lacks: bare mechanism, no policy.

One module per facility of the kernel; who may do what is decided by the callers. Every call raises
OSError with the name of what failed. Nothing here imports more than the standard library.
"""
