"""Where work goes: what a run needs of a host, and its start by Ray or Slurm."""
