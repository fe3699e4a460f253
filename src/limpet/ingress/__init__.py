"""Host and path routing in front of the apps: one process, on the same server as every worker."""
