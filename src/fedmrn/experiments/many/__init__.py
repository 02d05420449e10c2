"""Many runs: sweeps, runs side by side, tuning."""
