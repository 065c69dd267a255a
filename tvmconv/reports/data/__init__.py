"""Reports as frozen dataclasses, to JSON and back. They import neither renderers nor TVM."""
