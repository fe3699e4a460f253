"""Bundles: one file with everything that some objects need, for nodes without a network (docs/bundles.md).

A bundle is an OCI image layout in a tar file. `tar` reads and writes the archive, `layout` the documents in
it, `reading` and `writing` whole bundles. Everything in a bundle is hostile until it is verified.
"""
