"""Load and validate SmolVLA checkpoints."""
