"""Runs stages on Ray Data: units of work, commits, resume, quarantine, admission."""
