"""What is measured: latency, and what processes use as the kernel counts it."""
