"""Backlog, policy (pure, clock given), admission and the loop that carries it out."""
