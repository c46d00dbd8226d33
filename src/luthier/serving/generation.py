"""The generation engine: a thread that owns one network and answers many requests with it."""

from __future__ import annotations
