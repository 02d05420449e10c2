"""The commands, a function each; heavy libraries are imported by those that need them, so that --help is quick."""

__all__: list[str] = []
