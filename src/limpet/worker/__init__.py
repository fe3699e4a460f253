"""The processes that run apps, and the agent's hold on them.

`zygote` forks; `child` is what a forked process does; `loop` is its event loop; `channel` and
`messages` are what crosses between processes; `supervisor` is the agent's side of one worker.
"""
