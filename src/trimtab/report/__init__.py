"""Faces of a finished run: the terminal table and the offline HTML page."""
