"""The lineage graph, one module a stage. Assets are thin: they read inputs, call domain code and say what they did."""
