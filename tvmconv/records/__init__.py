"""Tuning records: those that ship with the package, and the module that reads and writes them."""
