"""Partitions: one key a HiRISE observation, registered by the asset ``observations``. Never one a crop."""

import dagster as dg

observation_partitions = dg.DynamicPartitionsDefinition(name="observation")
