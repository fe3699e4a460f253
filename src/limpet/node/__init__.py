"""The node: `launcher` starts and restarts the two long-lived processes, `agent` makes what runs equal
what was asked for, and `state` decides how, without doing it.
"""
