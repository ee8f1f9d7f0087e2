"""Checks of a request, and the plan of a build."""
