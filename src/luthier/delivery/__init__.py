"""Handing it over: the report and the bundle."""
