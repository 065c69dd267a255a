"""How tensor cores add, bit for bit, as a choice."""
