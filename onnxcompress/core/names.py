"""Names that are free."""

from __future__ import annotations


def free_name(base: str, used: set[str], separator: str = "_") -> str:
    """Return ``base``, or ``base`` with the least number from 2 on that nothing uses, and note its use.

    >>> used = {"w", "w_2"}
    >>> free_name("w", used), sorted(used)
    ('w_3', ['w', 'w_2', 'w_3'])
    """
    name, count = base, 1
    while name in used:
        count += 1
        name = f"{base}{separator}{count}"
    used.add(name)
    return name
