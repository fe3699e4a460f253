"""WasmEdge by ctypes. Importing this package loads nothing."""
