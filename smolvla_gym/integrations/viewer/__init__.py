"""The arm on a page in the browser: to watch, to tell what to do, and to stop."""
