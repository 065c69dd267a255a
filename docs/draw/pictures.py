"""The pictures of docs/tensor-core.md: by name, what draws each. ``make docs`` writes them.

All that is drawn comes from `intrinsics`; nothing here knows a lane, a cycle or a bit by itself.
"""

from __future__ import annotations

from collections.abc import Callable

from docs.draw import cycles, holders, steps, sums

PICTURES: dict[str, Callable[[], str]] = {
    "who-holds-what": holders.volta,
    "steps": steps.filmstrip,
    "cycles": cycles.timeline,
    "sums": sums.sums,
    "later-chips": holders.later,
}
