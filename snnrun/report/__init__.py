"""What is made of finished runs: reads files on disk, imports neither torch nor Hydra."""
