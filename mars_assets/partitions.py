"""Dagster partitions: one per HiRISE observation, registered by ``observations``."""

import dagster as dg

observation_partitions = dg.DynamicPartitionsDefinition(name="observation")
