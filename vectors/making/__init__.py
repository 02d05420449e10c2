"""What `make.py` writes: cases that are read, frames that are refused, numbers to begin with."""
