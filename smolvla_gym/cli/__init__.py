"""The command line: ``commands`` has one module a command, ``options`` what several of them share."""
