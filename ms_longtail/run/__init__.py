"""Runs: recipe -> objects -> plan -> stages -> run folder."""
