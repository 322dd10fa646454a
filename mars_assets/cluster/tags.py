"""Tags of runs that say where they run, or ran."""

RAY_TAG = "dagster-ray/config"
"""What dagster-ray asks of Ray for a run, as JSON."""
SLURM_TAG = "slurm/options"
"""Options of ``sbatch`` for a run."""
JOB_TAG = "slurm/job_id"
"""The number of a run's job in Slurm; empty until it is submitted."""
RAY_JOB_TAG = "ray/job"
"""The id under which a run was submitted to Ray. A run that was started at the command line has none."""
NEEDS_TAG = "mars_assets/needs"
"""What the run coordinator wrote into the tags above and what they were before, as JSON.

A run that repeats another one has its tags, too, and may execute fewer steps.
"""
