"""Numbered steps from one schema to the next; a new one is added, an old one never changed."""
