"""What a pool runs tasks on. `engine` is the seam; each folder is an engine."""
