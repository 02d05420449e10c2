"""The account of differential privacy: what private masks (`fedmrn.numerics.private`) are worth."""

from fedmrn.privacy.account import DELTA, Mechanism, PrivateRounds, epsilon_of, theta_for

__all__ = ["DELTA", "Mechanism", "PrivateRounds", "epsilon_of", "theta_for"]
