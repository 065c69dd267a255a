"""Convolution by its definition, for every convolution that no other family takes."""
