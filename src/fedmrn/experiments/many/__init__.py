"""Many runs: sweeps, runs side by side, tuning."""

__all__: list[str] = []
