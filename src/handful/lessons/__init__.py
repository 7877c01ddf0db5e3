"""The programs and experiments of four tutorials on mini-batch training, alive."""
