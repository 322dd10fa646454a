"""HiRISE imagery: which products, how they are fetched, and how crops are cut from them. Knows no Dagster."""
