"""Limpet measured by itself: what `limpet demo` runs."""
