"""Checks of user input, each in one place: alpha, choices, documents, the library's arguments."""
