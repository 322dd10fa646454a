"""What can be an encoder.

A registry of published weights, the architectures beside Prithvi's, and how all are loaded.
"""
