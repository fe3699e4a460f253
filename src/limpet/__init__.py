"""Limpet: WebAssembly apps on small Linux devices, kept running when the network is gone."""

__version__ = "0.1.0"
