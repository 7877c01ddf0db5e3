"""Studies: what is answered by many short trainings that differ in a few settings."""
