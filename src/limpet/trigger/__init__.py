"""How work reaches a module: one trigger per way, each run inside the app's worker.

A trigger gets a loaded `Program` and calls `run` once per piece of work. `http` serves requests by
the CGI convention; `command` runs the module to completion. To add one, write its module here, give
it a name in `limpet.manifest.model.Trigger`, and start it in `limpet.worker.child`.
"""
