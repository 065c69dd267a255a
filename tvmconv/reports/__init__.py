"""Reports: data, and their text."""
