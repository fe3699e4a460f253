"""The manifests folder: files that are applied, changed and removed as they change (docs/gitops.md).

`scan` looks and reads, `parsing` has a walled process make objects of the bytes, `decide` says what is to
change, `folder` drives all three and waits for the next change.
"""
