"""Reports: `data` is what they say, `render` shows it, `collect` finds it out.

Importing any of them loads the renderers, so that ``str(report)`` is its text.
"""

from tvmconv.reports import render as render
