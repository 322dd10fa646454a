"""Deployment: one instance of Dagster for several people, on any number of hosts.

``levels`` says what each level needs, ``database`` looks at Postgres, ``pools`` has the limits, ``services`` writes the
unit files, and ``set_up`` does it all for ``mars-assets deploy``.
"""
