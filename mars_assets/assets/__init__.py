"""The lineage graph, one module a stage. Assets are thin: they read inputs, call domain code and say what they did."""

import warnings

import dagster as dg

# Backfill policies and observable sources are marked beta in 1.13: what they do here is held by tests, and a line for
# each on every command helps nobody. To go when Dagster calls them stable.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
