"""Machines: one TOML file each, and `here`, which is probed."""
