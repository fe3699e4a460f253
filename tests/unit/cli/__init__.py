"""Tests of the command line against a fake node on a real Unix socket."""
