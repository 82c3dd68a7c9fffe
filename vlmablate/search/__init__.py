"""Proposals of configurations to try next. What was tried is the caller's; nothing is kept here."""
