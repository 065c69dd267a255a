"""Reports: `data` has their content, `render` their text, and `collect` makes them.

Importing any of them loads the renderers, so that ``str(report)`` is its text.
"""

from tvmconv.reports import render as render
