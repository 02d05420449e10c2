"""The account of differential privacy: what private masks (`fedmrn.numerics.private`) are worth."""

from fedmrn.privacy.account import DELTA, Mechanism, PrivateRounds, check_account, epsilon_of, theta_for

__all__ = ["DELTA", "Mechanism", "PrivateRounds", "check_account", "epsilon_of", "theta_for"]
