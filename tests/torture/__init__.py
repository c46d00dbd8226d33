"""Runs that are killed, starved and damaged; `make torture` (KILLS=200 by default), and a smaller round with every change."""
