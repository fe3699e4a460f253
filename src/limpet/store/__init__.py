"""What a node keeps on disk: desired state and events, modules and artifacts, volumes, logs."""
