"""Limpet's own upgrade: versions side by side, and what is known of a version on trial."""
