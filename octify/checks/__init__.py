"""Checks of what a user gives, each in one place: alpha, words, documents, the library's arguments."""
