"""Atlases: labelled scans that are registered to another scan, and whose masks then vote on its labels."""
