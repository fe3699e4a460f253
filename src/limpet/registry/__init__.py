"""Modules from elsewhere: registries and web servers, for the node and for `limpet push` and `pull`."""
