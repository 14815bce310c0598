"""Tests of how the two programs are started: launchers, command lines, exit statuses."""
