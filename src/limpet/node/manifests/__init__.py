"""The manifests folder: files that are applied, changed and removed as they change (docs/gitops.md).

`scan` looks at files, `reading` and `parsing` make objects of their bytes by way of a walled process,
`decide` says what is to change, `folder` drives them and waits for the next change.
"""
