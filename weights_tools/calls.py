"""The error for a wrong call: arguments that do not exist, contradict each other or have no effect. No torch here."""

from __future__ import annotations


class WrongCall(ValueError):
    """What was asked for makes no sense whatever the files hold; commands end with exit code 2."""
