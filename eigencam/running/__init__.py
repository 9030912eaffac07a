"""The run loop and what surrounds it: preparing, loading, maps of a batch, rows, sweeps, SLURM, loggers."""
