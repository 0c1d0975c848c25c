"""The reach of a window with a middle."""

from __future__ import annotations

from zoo import ZooError


def reach(window: object, what: str) -> int:
    """Return how many tokens a window reaches to either side of its middle; ``what`` names it in the ZooError."""
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ZooError(f"{what} is {window!r}; expected an odd whole number, so that the window has a middle")
    return window // 2
