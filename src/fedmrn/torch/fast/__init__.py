"""Fast paths with the results of the plain ones: SGD in the pass that draws, CUDA kernels, captured steps."""

__all__: list[str] = []
