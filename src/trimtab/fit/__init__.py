"""The training engine and torch artefacts. torch is imported here and in registry files only."""
