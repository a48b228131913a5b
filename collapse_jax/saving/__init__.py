"""What survives a kill: work directories, checkpoints, signals."""
