"""What happened in a training: runs, their history and their folders; no torch."""
