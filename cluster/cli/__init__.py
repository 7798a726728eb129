"""The command line `bitsift`: main.py is its root, each other module a group of commands."""
