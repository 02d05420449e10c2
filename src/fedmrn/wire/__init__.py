"""What travels: the layout of a model, frames of bytes, and the way from vectors to frames and back."""
