"""Convolution by its definition: always matches."""
