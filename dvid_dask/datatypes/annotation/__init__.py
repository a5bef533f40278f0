"""Annotations: points with kinds, tags and relationships, found by box, label and tag."""
