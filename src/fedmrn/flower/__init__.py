"""FedMRN, and every other method of the table, as a Flower strategy; `fedmrn.flower.client` is a client's side.

Transport only: what is sent, checked and folded is the business of `fedmrn.server`, and training of `fedmrn.torch`.
The strategy runs without a training framework.
"""

from fedmrn.federation.report import RoundReport
from fedmrn.flower.strategy import FedMRN

__all__ = ["FedMRN", "RoundReport"]
