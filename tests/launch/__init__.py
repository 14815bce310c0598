"""Tests of the two programs from outside: launchers, command lines, exit statuses."""
