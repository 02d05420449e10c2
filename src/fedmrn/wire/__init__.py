"""The bytes between server and clients: a model's layout, frames, and vectors as frames and back."""

__all__: list[str] = []
