"""Commands of ``smolvla-gym``, one module each."""
