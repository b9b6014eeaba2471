"""What is made of finished runs: reads files on disk, imports no torch."""
