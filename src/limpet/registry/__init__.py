"""Where modules come from when a manifest names no file: one function per scheme, in `fetch`."""
