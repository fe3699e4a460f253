"""Test modules here import each other by name; pytest puts this directory on the path."""
